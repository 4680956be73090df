//! Service ports that cannot serve somebody for their Local policy: kube-proxy counts them.

use millrace_common::address::Address;
use millrace_common::frontend::{Kind, flags};

use crate::hash::HashMap;
use crate::model::desired::{Desired, DesiredFamily};
use crate::source::SharedName;

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
    services: HashMap<SharedName, NoLocal>,
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
    let has = |of_internal: bool, bits: u32| {
        let mut frontends = family.frontends.iter();
        frontends.any(|f| internal(f.kind) == of_internal && f.flags & bits == bits)
    };
    found.internal += u32::from(has(true, INTERNAL));
    found.external += u32::from(has(false, EXTERNAL));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Model;
    use crate::settings::Policy;
    use crate::source::{Event, Object, ObjectName};

    /// A Service with these policies and an endpoint on each of these nodes, seen by `here`.
    fn found(internal: &str, external: &str, nodes: &[&str]) -> NoLocal {
        let mut model = Model::new("here", Policy::default());
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort",
                "clusterIP": "10.96.0.1",
                "internalTrafficPolicy": internal,
                "externalTrafficPolicy": external,
                "externalIPs": ["192.0.2.1", "192.0.2.2"],
                "ports": [{"port": 80, "nodePort": 30080}],
            },
        });
        let endpoints: Vec<_> = (1..)
            .zip(nodes)
            .map(
                |(index, node)| json!({"addresses": [format!("10.1.0.{index}")], "nodeName": node}),
            )
            .collect();
        let slice = json!({
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "", "port": 8080}],
        });
        let service = serde_json::from_value(service).unwrap();
        let slice = serde_json::from_value(slice).unwrap();
        model.apply(Event::Apply(Object::Service(service)));
        model.apply(Event::Apply(Object::EndpointSlice(slice)));
        count(&model.desired(&ObjectName::new("default", "web")))
    }

    #[test]
    fn a_port_counts_once_for_each_policy_that_has_nobody_here() {
        // kube-proxy's seven combinations, and Services without any endpoint.
        let table = [
            ("Cluster", "Cluster", &["there"][..], (0, 0)),
            ("Local", "Cluster", &["there"], (1, 0)),
            ("Cluster", "Local", &["there"], (0, 1)),
            ("Local", "Local", &["there", "elsewhere"], (1, 1)),
            ("Local", "Local", &["here", "there"], (0, 0)),
            ("Local", "Cluster", &["here"], (0, 0)),
            ("Cluster", "Local", &["here"], (0, 0)),
            ("Local", "Local", &[], (0, 0)),
        ];
        for (internal, external, nodes, wanted) in table {
            let found = found(internal, external, nodes);
            let case = format!("{internal} {external} {nodes:?}");
            assert_eq!((found.v4.internal, found.v4.external), wanted, "{case}");
            assert_eq!(found.v6, ByPolicy::default(), "{case}");
        }
    }

    #[test]
    fn the_sum_follows_every_change() {
        let mut tally = Tally::default();
        let mut desired = Desired::absent(ObjectName::new("default", "web"));
        tally.update(&desired);
        assert_eq!(tally.total(), NoLocal::default());
        let one = ByPolicy { internal: 1, external: 0 };
        tally.services.insert(desired.service.clone(), NoLocal { v4: one, v6: one });
        tally.total = NoLocal { v4: one, v6: one };
        tally.update(&desired);
        assert_eq!(tally.total(), NoLocal::default(), "the Service is gone");
        desired.service = ObjectName::new("default", "web2").into();
        tally.update(&desired);
        assert!(tally.services.is_empty());
    }
}
