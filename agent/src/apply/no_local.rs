//! Service ports that cannot serve somebody for their Local policy: kube-proxy counts them.

use std::collections::HashMap;

use millrace_common::address::Address;
use millrace_common::frontend::{Kind, flags};

use crate::model::desired::{Desired, DesiredFamily};
use crate::source::ObjectName;

/// Service ports whose policy is Local and whose endpoints are all on other nodes. Ports without
/// any endpoint are not among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoLocal {
    /// IPv4.
    pub v4: ByPolicy,
    /// IPv6.
    pub v6: ByPolicy,
}

/// Of one family, by the policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByPolicy {
    /// `internalTrafficPolicy`.
    pub internal: u32,
    /// `externalTrafficPolicy`.
    pub external: u32,
}

/// Keeps the sum while Services change.
#[derive(Default)]
pub(super) struct Tally {
    services: HashMap<ObjectName, NoLocal>,
    total: NoLocal,
}

impl Tally {
    /// The Service looks like this now.
    pub(super) fn update(&mut self, desired: &Desired) {
        let found = count(desired);
        let before = if found == NoLocal::default() {
            self.services.remove(&desired.service)
        } else {
            self.services.insert(desired.service.clone(), found)
        };
        self.total.change(found, u32::saturating_add);
        self.total.change(before.unwrap_or_default(), u32::saturating_sub);
    }

    pub(super) const fn total(&self) -> NoLocal {
        self.total
    }
}

impl NoLocal {
    fn change(&mut self, by: Self, how: fn(u32, u32) -> u32) {
        for (mine, by) in [(&mut self.v4, by.v4), (&mut self.v6, by.v6)] {
            mine.internal = how(mine.internal, by.internal);
            mine.external = how(mine.external, by.external);
        }
    }
}

fn count(desired: &Desired) -> NoLocal {
    let mut found = NoLocal::default();
    for port in &desired.ports {
        add(&mut found.v4, &port.v4);
        add(&mut found.v6, &port.v6);
    }
    found
}

/// One port counts once for each policy, however many frontends it has.
fn add<A: Address>(found: &mut ByPolicy, family: &DesiredFamily<A>) {
    const INTERNAL: u32 = flags::NEAR_LOCAL | flags::NEAR_DROP;
    const EXTERNAL: u32 = flags::FAR_LOCAL | flags::FAR_DROP;
    let internal = |kind: Kind| kind == Kind::ClusterIp;
    let dialled = || family.frontends.iter().filter(|frontend| frontend.kind != Kind::Address);
    let has = |of_internal: bool, bits: u32| {
        dialled().any(|f| internal(f.kind) == of_internal && f.flags & bits == bits)
    };
    found.internal += u32::from(has(true, INTERNAL));
    found.external += u32::from(has(false, EXTERNAL));
}
