//! Labels of objects: those that decide anything here. An object may have dozens, and a cluster
//! hundreds of thousands of objects.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// An EndpointSlice's: the Service it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// An EndpointSlice's: hides it from every proxy, whatever the value.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// A Service's: another proxy serves it, whatever the value.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// A Node's: its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// All that are kept.
const KEPT: [&str; 4] = [SERVICE_NAME, HEADLESS, PROXY_NAME, ZONE];

/// `metadata.labels`. Others than the constants of this module are read past; text they must be all
/// the same.
#[derive(Clone, PartialEq, Hash, Debug, Default)]
pub struct Labels(Vec<(&'static str, String)>);

impl Labels {
    /// Its value, if the object has it.
    pub fn get(&self, label: &str) -> Option<&str> {
        let mut kept = self.0.iter();
        kept.find(|(known, _)| *known == label).map(|(_, value)| value.as_str())
    }

    /// Have a label, in the place of one of that name.
    pub fn insert(&mut self, label: &'static str, value: impl Into<String>) {
        self.0.retain(|(known, _)| *known != label);
        self.0.push((label, value.into()));
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(All)
    }
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Labels, M::Error> {
        let mut labels = Labels::default();
        while let Some(Text(kept)) = map.next_key()? {
            match kept {
                Some(label) => labels.insert(label, map.next_value::<String>()?),
                None => {
                    let Text(_) = map.next_value()?;
                }
            }
        }
        Ok(labels)
    }
}

/// Some text; known if it is the name of a label that is kept.
struct Text(Option<&'static str>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(KEPT.into_iter().find(|kept| *kept == text)))
            }
        }
        deserializer.deserialize_str(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_are_used_are_kept_and_all_must_be_text() {
        let text = r#"{"app": "web", "kubernetes.io/service-name": "a", "x": "",
                       "topology.kubernetes.io/zone": "z1", "kubernetes.io/service-name": "b"}"#;
        let labels: Labels = serde_json::from_str(text).unwrap();
        assert_eq!((labels.get(SERVICE_NAME), labels.get(ZONE)), (Some("b"), Some("z1")));
        assert_eq!((labels.get("app"), labels.get(HEADLESS)), (None, None));
        assert_eq!(labels.0.len(), 2);
        let wrong = serde_json::from_str::<Labels>(r#"{"app": 1.1}"#).unwrap_err().to_string();
        assert!(wrong.contains("floating point `1.1`, expected a string"), "{wrong}");
        let wrong = serde_json::from_str::<Labels>("[]").unwrap_err().to_string();
        assert!(wrong.contains("expected a map"), "{wrong}");
    }
}
