//! Which endpoints of a service port take new connections on this node.
//!
//! The rules of kube-proxy's `pkg/proxy/topology.go` (Kubernetes 1.36), as a function of nothing
//! but its arguments.

/// What counts about one endpoint: bits of [`fact`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Facts(pub u8);

/// Bits of [`Facts`].
pub mod fact {
    /// Condition `ready`.
    pub const READY: u8 = 1 << 0;
    /// Condition `serving`.
    pub const SERVING: u8 = 1 << 1;
    /// Condition `terminating`.
    pub const TERMINATING: u8 = 1 << 2;
    /// It runs on this node.
    pub const LOCAL: u8 = 1 << 3;
    /// It is hinted for some nodes.
    pub const NODE_HINTED: u8 = 1 << 4;
    /// It is hinted for this node.
    pub const OUR_NODE: u8 = 1 << 5;
    /// It is hinted for some zones.
    pub const ZONE_HINTED: u8 = 1 << 6;
    /// It is hinted for this node's zone.
    pub const OUR_ZONE: u8 = 1 << 7;
}

impl Facts {
    /// Whether all of `bits` hold.
    pub const fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }
    /// Whether it can take connections when nothing better is there.
    const fn is_last_resort(self) -> bool {
        self.has(fact::SERVING | fact::TERMINATING)
    }
}

/// What counts about the service port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`, on a service that can have one.
    pub external_local: bool,
    /// It has a node port, an external IP or a load balancer IP.
    pub external: bool,
}

impl Policy {
    /// Whether some client may be given any endpoint of the cluster. Under a Local external policy
    /// too: clients on this node are.
    const fn uses_cluster(self) -> bool {
        !self.internal_local || self.external
    }
    const fn uses_local(self) -> bool {
        self.internal_local || (self.external_local && self.external)
    }
}

/// The outcome; numbers are positions in the list of endpoints.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Selection {
    /// For policy Cluster.
    pub cluster: Vec<usize>,
    /// For policy Local.
    pub local: Vec<usize>,
    /// Some endpoint somewhere could serve: an empty list drops instead of rejecting.
    pub has_any: bool,
}

/// Choose among `endpoints`.
pub fn select(endpoints: &[Facts], policy: Policy) -> Selection {
    let mut selection = Selection::default();
    if policy.uses_cluster() {
        let hint = hint_in_force(endpoints);
        selection.cluster = which(endpoints, |facts| facts.has(fact::READY | hint));
        if selection.cluster.is_empty() {
            selection.cluster = which(endpoints, Facts::is_last_resort);
        }
        selection.has_any = !selection.cluster.is_empty();
    }
    if policy.uses_local() {
        selection.local = which(endpoints, |facts| facts.has(fact::READY | fact::LOCAL));
        if selection.local.is_empty() {
            let last = |facts: Facts| facts.has(fact::LOCAL) && facts.is_last_resort();
            selection.local = which(endpoints, last);
        }
        selection.has_any |=
            endpoints.iter().any(|facts| facts.has(fact::READY) || facts.is_last_resort());
    }
    selection
}

/// The fact that a ready endpoint must have: same node, else same zone, else none. One ready
/// endpoint without a hint switches that kind of hint off.
fn hint_in_force(endpoints: &[Facts]) -> u8 {
    let ready = || endpoints.iter().filter(|facts| facts.has(fact::READY));
    let in_force = |hinted: u8, ours: u8| {
        ready().all(|facts| facts.has(hinted)) && ready().any(|facts| facts.has(ours))
    };
    if in_force(fact::NODE_HINTED, fact::OUR_NODE) {
        fact::OUR_NODE
    } else if in_force(fact::ZONE_HINTED, fact::OUR_ZONE) {
        fact::OUR_ZONE
    } else {
        0
    }
}

fn which(endpoints: &[Facts], wanted: impl Fn(Facts) -> bool) -> Vec<usize> {
    (0..endpoints.len()).filter(|index| wanted(endpoints[*index])).collect()
}
