//! What servers could not do, for `millrace status`.

use std::collections::BTreeMap;

use tokio::sync::watch;

/// What it is about, and what is wrong.
pub type Notices = BTreeMap<String, String>;

/// Where servers leave notices.
#[derive(Clone, Debug)]
pub struct Board(watch::Sender<Notices>);

impl Board {
    /// An empty one, and who reads it.
    pub fn new() -> (Self, watch::Receiver<Notices>) {
        let (sender, receiver) = watch::channel(Notices::new());
        (Self(sender), receiver)
    }

    /// Leave a notice, or take it off. True: this is news.
    pub fn set(&self, about: &str, message: Option<String>) -> bool {
        self.0.send_if_modified(|notices| match message {
            Some(message) if notices.get(about) == Some(&message) => false,
            Some(message) => {
                notices.insert(about.to_owned(), message);
                true
            }
            None => notices.remove(about).is_some(),
        })
    }

    /// Have these and no others. Returns those that are new.
    pub fn replace(&self, all: Notices) -> Notices {
        let mut new = Notices::new();
        self.0.send_if_modified(|notices| {
            let fresh = all.iter().filter(|(about, message)| notices.get(*about) != Some(message));
            new.extend(fresh.map(|(about, message)| (about.clone(), message.clone())));
            let changed = *notices != all;
            *notices = all;
            changed
        });
        new
    }
}
