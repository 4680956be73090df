//! One object's text into a slim type.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::source::{Kind, Object, ObjectName};

/// An object as the API server sent it, cut out of its list or event but not yet looked into: the
/// list survives whatever is wrong inside.
#[derive(Clone, Deserialize, Debug)]
#[serde(transparent)]
pub(super) struct Raw(Box<RawValue>);

/// An object that could not be read.
#[derive(Debug)]
pub(super) struct Undecodable {
    /// Its name, as far as it could be read.
    pub name: ObjectName,
    /// What is wrong, with the path of the field.
    pub error: String,
}

/// Only the name and the version.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct HeadMetadata {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl Raw {
    /// Decode it as an object of this kind.
    pub fn decode(&self, kind: Kind) -> Result<Object, Undecodable> {
        let text = self.0.get();
        let decoded = match kind {
            Kind::Service => decode(text).map(Object::Service),
            Kind::EndpointSlice => decode(text).map(Object::EndpointSlice),
            Kind::Node => decode(text).map(Object::Node),
            Kind::ServiceCidr => decode(text).map(Object::ServiceCidr),
        };
        let nameless = || Undecodable { name: self.name(), error: "it has no name".into() };
        match decoded {
            Ok(object) if object.name().name.is_empty() => Err(nameless()),
            Ok(object) => Ok(object),
            Err(error) => Err(Undecodable { name: self.name(), error }),
        }
    }
    /// Its name, even if the rest cannot be read; empty if that cannot either.
    pub fn name(&self) -> ObjectName {
        let head = self.head();
        ObjectName::new(head.namespace.unwrap_or_default(), head.name.unwrap_or_default())
    }
    /// Its resource version; empty if it cannot be read.
    pub fn resource_version(&self) -> String {
        self.head().resource_version.unwrap_or_default()
    }
    fn head(&self) -> HeadMetadata {
        serde_json::from_str(self.0.get()).map(|head: Head| head.metadata).unwrap_or_default()
    }
}

fn decode<T: for<'a> Deserialize<'a>>(text: &str) -> Result<T, String> {
    // To keep track of the path costs time: only what fails is read with it.
    if let Ok(decoded) = serde_json::from_str(text) {
        return Ok(decoded);
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        format!("{path}: {}", error.into_inner())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Raw {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn odd_objects() {
        let odd = raw(r#"{"apiVersion":"v1","kind":"Service","new":{"a":[1]},
                "metadata":{"name":"a","namespace":"n","labels":null,"managedFields":[{}]},
                "spec":{"clusterIP":null,"ports":[{"port":80,"targetPort":"http"}],"x":1},
                "status":null}"#);
        let Ok(Object::Service(service)) = odd.decode(Kind::Service) else { panic!("{odd:?}") };
        assert_eq!(service.spec.ports[0].port, 80);
    }

    #[test]
    fn an_undecodable_object_is_named_with_the_field() {
        let bad = raw(r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"},
                "spec":{"ports":[{"port":"http"}]}}"#);
        let Err(error) = bad.decode(Kind::Service) else { panic!("decoded") };
        assert_eq!(error.name, ObjectName::new("n", "a"));
        assert!(error.error.starts_with("spec.ports[0].port: "), "{}", error.error);
        assert_eq!(bad.resource_version(), "7");
        for text in ["[]", "null", "{}", r#"{"metadata":{"name":7}}"#, r#"{"metadata":{}}"#] {
            let Err(error) = raw(text).decode(Kind::Node) else { panic!("decoded {text}") };
            assert_eq!(error.name, ObjectName::new("", ""), "{text}");
        }
    }
}
