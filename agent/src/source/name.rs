//! Names of objects.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use foldhash::quality::RandomState;

/// Namespace and name. The namespace of a Node or ServiceCIDR is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ObjectName {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ObjectName {
    /// From its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Hash for ObjectName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
    }
}

impl ObjectName {
    /// What it hashes to. Seeded at random: who names objects cannot choose names that collide.
    fn digest(&self) -> u64 {
        static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        SEED.hash_one((self.namespace.as_str(), self.name.as_str()))
    }
}

/// A name that many have, with what it hashes to: hash maps of 100 000 names look at their bytes
/// no more often than they must.
#[derive(Clone)]
pub struct SharedName(Arc<Digested>);

struct Digested {
    digest: u64,
    name: ObjectName,
}

impl SharedName {
    /// To be shared from now on.
    pub fn new(name: ObjectName) -> Self {
        Self(Arc::new(Digested { digest: name.digest(), name }))
    }
}

impl From<ObjectName> for SharedName {
    fn from(name: ObjectName) -> Self {
        Self::new(name)
    }
}

impl Deref for SharedName {
    type Target = ObjectName;
    fn deref(&self) -> &ObjectName {
        &self.0.name
    }
}

// A map of shared names can be asked for one that is not: all that is compared is the same.
impl Borrow<ObjectName> for SharedName {
    fn borrow(&self) -> &ObjectName {
        self
    }
}

impl Hash for SharedName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.digest);
    }
}

impl PartialEq for SharedName {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&self.0, &other.0);
        Arc::ptr_eq(one, other) || (one.digest == other.digest && one.name == other.name)
    }
}

impl Eq for SharedName {}

impl PartialEq<ObjectName> for SharedName {
    fn eq(&self, other: &ObjectName) -> bool {
        **self == *other
    }
}

impl PartialOrd for SharedName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SharedName {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) {
            Ordering::Equal
        } else {
            self.0.name.cmp(&other.0.name)
        }
    }
}

impl fmt::Debug for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.name.fmt(f)
    }
}

impl fmt::Display for SharedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.name, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashMap;

    #[test]
    fn shared_or_not_a_name_is_the_same_key() {
        let name = ObjectName::new("shop", "web");
        let shared = SharedName::new(name.clone());
        let map = HashMap::from_iter([(shared.clone(), 1)]);
        assert_eq!(map.get(&name), Some(&1));
        assert_eq!(map.get(&SharedName::new(name)), Some(&1));
        // The two parts are two.
        assert_eq!(map.get(&ObjectName::new("shopw", "eb")), None);
        let later = SharedName::new(ObjectName::new("shop", "web2"));
        assert!(shared < later && shared != later && shared <= shared.clone());
    }
}
