//! Label and field selectors, as far as the agent uses them.

use serde_json::Value;

use super::state::Resource;

/// Fields by which each resource can be selected; others are refused, as the API server does.
const FIELDS: [(Resource, &[&str]); 4] = [
    (Resource::Services, &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"]),
    (Resource::EndpointSlices, &["metadata.name", "metadata.namespace"]),
    (Resource::Nodes, &["metadata.name", "spec.unschedulable"]),
    (Resource::ServiceCidrs, &["metadata.name"]),
];

/// Fields of Services before Kubernetes 1.31.
const OLD_SERVICE_FIELDS: &[&str] = &["metadata.name", "metadata.namespace"];

fn known_fields(resource: Resource, old: bool) -> &'static [&'static str] {
    if old && resource == Resource::Services {
        return OLD_SERVICE_FIELDS;
    }
    FIELDS.iter().find(|(other, _)| *other == resource).map_or(&[], |(_, fields)| fields)
}

/// One requirement.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Term {
    Exists(String),
    Missing(String),
    Equals(String, String),
    Differs(String, String),
}

/// Both selectors of a request.
#[derive(Clone, Default, Debug)]
pub(super) struct Selection {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

impl Selection {
    /// Parse both; an error is what the API server would say.
    ///
    /// `old`: as a server before Kubernetes 1.31, where Services have fewer fields.
    pub fn parse(
        resource: Resource,
        labels: &str,
        fields: &str,
        old: bool,
    ) -> Result<Self, String> {
        let labels = terms(labels)?;
        let fields = terms(fields)?;
        let known = known_fields(resource, old);
        for term in &fields {
            match term {
                Term::Equals(field, _) | Term::Differs(field, _) if known.contains(&&**field) => {}
                other => return Err(format!("field label not supported: {other:?}")),
            }
        }
        Ok(Self { labels, fields })
    }

    /// Is the object selected?
    pub fn selects(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"].get(key).and_then(Value::as_str);
        let field = |path: &str| {
            let pointer = format!("/{}", path.replace('.', "/"));
            // A field that is not set reads as the empty string.
            Some(object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default())
        };
        self.labels.iter().all(|term| term.holds(label))
            && self.fields.iter().all(|term| term.holds(field))
    }

    /// Does it select everything?
    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

impl Term {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Exists(key) => value(key).is_some(),
            Self::Missing(key) => value(key).is_none(),
            Self::Equals(key, wanted) => value(key) == Some(wanted),
            Self::Differs(key, other) => value(key) != Some(other),
        }
    }
}

fn terms(selector: &str) -> Result<Vec<Term>, String> {
    selector.split(',').filter(|term| !term.is_empty()).map(term).collect()
}

fn term(text: &str) -> Result<Term, String> {
    if text.contains([' ', '(', ')']) {
        return Err(format!("this API server does not know the selector {text:?}"));
    }
    Ok(if let Some((key, value)) = text.split_once("!=") {
        Term::Differs(key.into(), value.into())
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Term::Equals(key.into(), value.into())
    } else if let Some(key) = text.strip_prefix('!') {
        Term::Missing(key.into())
    } else {
        Term::Exists(text.into())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors() {
        let object = json!({"metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"clusterIP": "None"}});
        for (labels, fields, expect) in [
            ("", "", true),
            ("x", "", true),
            ("!x", "", false),
            ("!y,x=1", "", true),
            ("x!=1", "", false),
            ("y!=1", "metadata.name==a", true),
            ("", "spec.clusterIP!=None", false),
            ("", "spec.type!=ExternalName,metadata.name=a", true),
        ] {
            let selection = Selection::parse(Resource::Services, labels, fields, false).unwrap();
            assert_eq!(selection.selects(&object), expect, "{labels} {fields}");
        }
        let fields = "spec.clusterIP!=None";
        assert!(Selection::parse(Resource::Services, "", fields, true).is_err());
        assert!(Selection::parse(Resource::Services, "", "metadata.name=a", true).is_ok());
        assert!(Selection::parse(Resource::Nodes, "", "spec.clusterIP=x", false).is_err());
        assert!(Selection::parse(Resource::Nodes, "x in (1)", "", false).is_err());
    }
}
