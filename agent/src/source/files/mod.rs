//! The embedded default source: a directory of manifests, followed live.
//!
//! [`parse`] turns one file's bytes into objects and problems (pure); [`store`] knows which file's
//! word counts for which object and turns files into [`super::Event`]s (pure); [`scan`] looks at
//! the directory; [`watch`] runs it all on a thread of its own, woken by inotify and, in case that
//! misses something, by a slow clock.
//!
//! A mistake in a file must not take a service down: what cannot be read leaves the last good state
//! in force, and what may be half written is not read yet.

mod json;
pub mod parse;
mod scan;
mod store;
mod watch;
mod yaml;

pub use watch::watch;
