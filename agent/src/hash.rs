//! Hash maps of the model and of the plan, where most of the agent's work is.
//!
//! Their keys are names and addresses that users choose, so the hasher is seeded at random: who can
//! create Services cannot choose names that collide. The standard library's is too, and takes three
//! times as long for keys as short as these.

use foldhash::quality::RandomState;

/// A map by hash.
pub type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;
/// A set by hash.
pub type HashSet<K> = std::collections::HashSet<K, RandomState>;
