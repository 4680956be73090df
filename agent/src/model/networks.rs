//! The networks that ClusterIPs come from: a hull around those there are, and the ServiceCIDRs.
//!
//! What is sent to a ClusterIP and to none of its ports is refused, and what is sent into a
//! ServiceCIDR and to no ClusterIP is dropped. The hull tells nearly all other packets that neither
//! concerns them.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use millrace_common::address::{Address, V4, V6};
use millrace_common::node::{Prefix, SERVICE_CIDRS};

use super::address::{parse_range, unusable};
use super::family::PerFamily;
use super::problem::Reading;
use super::service::Service;
use crate::source::{ObjectName, SharedName, slim};

/// Both families' networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceNetworks {
    /// IPv4.
    pub v4: FamilyNetworks<V4>,
    /// IPv6.
    pub v6: FamilyNetworks<V6>,
}

/// One family's networks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FamilyNetworks<A> {
    /// Contains every ClusterIP that is served. Grows with the Services that come, and shrinks only
    /// when a full list of them is complete.
    pub hull: Prefix<A>,
    /// ServiceCIDRs; places that are not used contain nothing.
    pub cidrs: [Prefix<A>; SERVICE_CIDRS],
}

impl<A: Address> Default for FamilyNetworks<A> {
    fn default() -> Self {
        Self { hull: Prefix::NONE, cidrs: [Prefix::NONE; SERVICE_CIDRS] }
    }
}

/// What the model knows about them.
pub(super) struct Networks {
    v4: Prefix<V4>,
    v6: Prefix<V6>,
    /// ServiceCIDR objects, with the list each was last seen in.
    cidrs: BTreeMap<SharedName, (Box<[IpNetwork]>, u32)>,
    /// The networks of these that are told apart.
    apart: Apart,
}

/// ServiceCIDRs that are told apart, of both families.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Apart {
    pub(super) v4: [Prefix<V4>; SERVICE_CIDRS],
    pub(super) v6: [Prefix<V6>; SERVICE_CIDRS],
}

impl Apart {
    const NONE: Self =
        Self { v4: [Prefix::NONE; SERVICE_CIDRS], v6: [Prefix::NONE; SERVICE_CIDRS] };

    /// Whether the address is in one of them.
    pub(super) fn contains<A: PerFamily>(&self, address: A) -> bool {
        A::service_cidrs(self).iter().any(|cidr| cidr.contains(address))
    }
}

impl Networks {
    pub(super) const fn new() -> Self {
        Self { v4: Prefix::NONE, v6: Prefix::NONE, cidrs: BTreeMap::new(), apart: Apart::NONE }
    }

    /// A Service is there.
    pub(super) fn cover(&mut self, service: &Service) {
        if let Some(addresses) = &service.v4 {
            self.v4 = grown(self.v4, addresses.cluster);
        }
        if let Some(addresses) = &service.v6 {
            self.v6 = grown(self.v6, addresses.cluster);
        }
    }

    /// These Services and no others are there.
    pub(super) fn cover_only<'s>(&mut self, services: impl Iterator<Item = &'s Service>) {
        (self.v4, self.v6) = (Prefix::NONE, Prefix::NONE);
        services.for_each(|service| self.cover(service));
    }

    /// A ServiceCIDR is as given. Those that were told apart until now, if that changes them.
    pub(super) fn apply(
        &mut self,
        object: &slim::ServiceCidr,
        name: &SharedName,
        list: u32,
        reading: &mut Reading,
    ) -> Option<Apart> {
        self.cidrs.insert(name.clone(), (read(object, reading), list));
        self.tell_apart()
    }

    /// A ServiceCIDR is gone. Likewise.
    pub(super) fn remove(&mut self, name: &ObjectName) -> Option<Apart> {
        self.cidrs.remove(name);
        self.tell_apart()
    }

    fn tell_apart(&mut self) -> Option<Apart> {
        let new = Apart { v4: self.first_cidrs(), v6: self.first_cidrs() };
        let old = std::mem::replace(&mut self.apart, new);
        (old != new).then_some(old)
    }

    /// ServiceCIDRs that are told apart.
    pub(super) const fn apart(&self) -> &Apart {
        &self.apart
    }

    /// A ServiceCIDR is in this list, as it was.
    pub(super) fn keep(&mut self, name: &ObjectName, list: u32) {
        if let Some((_, seen)) = self.cidrs.get_mut(name) {
            *seen = list;
        }
    }

    /// ServiceCIDRs that are not in this list.
    pub(super) fn stale(&self, list: u32) -> Vec<SharedName> {
        let stale = self.cidrs.iter().filter(|(_, (_, seen))| *seen != list);
        stale.map(|(name, _)| name.clone()).collect()
    }

    /// As the packet path needs them.
    pub(super) fn of_services(&self) -> ServiceNetworks {
        ServiceNetworks {
            v4: FamilyNetworks { hull: self.v4, cidrs: self.apart.v4 },
            v6: FamilyNetworks { hull: self.v6, cidrs: self.apart.v6 },
        }
    }

    /// Key and message of what a person should know.
    pub(super) fn condition(&self) -> Option<(String, String)> {
        let left_out: Vec<String> = [self.distinct::<V4>(), self.distinct::<V6>()]
            .iter()
            .flat_map(|networks| networks.iter().skip(SERVICE_CIDRS))
            .map(ToString::to_string)
            .collect();
        if left_out.is_empty() {
            return None;
        }
        let message = format!(
            "{SERVICE_CIDRS} of each IP family are told apart: what is sent to addresses in {} \
             that no Service has is routed on instead of dropped; join neighbouring networks",
            left_out.join(", ")
        );
        Some(("ServiceCIDRs".to_owned(), message))
    }

    fn first_cidrs<A: PerFamily>(&self) -> [Prefix<A>; SERVICE_CIDRS] {
        let mut first = [Prefix::NONE; SERVICE_CIDRS];
        for (place, network) in first.iter_mut().zip(self.distinct::<A>()) {
            *place = prefix(network).unwrap_or(Prefix::NONE);
        }
        first
    }

    /// One family's networks, the largest first, without those that are inside another.
    fn distinct<A: PerFamily>(&self) -> Vec<IpNetwork> {
        let all = self.cidrs.values().flat_map(|(networks, _)| networks.iter().copied());
        let mut all: Vec<IpNetwork> =
            all.filter(|network| A::from_ip(network.ip()).is_some()).collect();
        all.sort_unstable_by_key(|network| (network.prefix(), network.ip()));
        let mut distinct: Vec<IpNetwork> = Vec::new();
        for network in all {
            if !distinct.iter().any(|larger| larger.contains(network.ip())) {
                distinct.push(network);
            }
        }
        distinct
    }
}

/// The networks of a ServiceCIDR that can be used.
fn read(object: &slim::ServiceCidr, reading: &mut Reading) -> Box<[IpNetwork]> {
    let mut networks = Vec::new();
    for (index, text) in object.spec.cidrs.iter().enumerate() {
        let why = match parse_range(text) {
            None => "not a prefix such as 10.96.0.0/12",
            Some(network) if network.prefix() == 0 => "every address there is",
            Some(network) => match unusable(network.ip()) {
                Some(why) => why,
                None => {
                    networks.push(network);
                    continue;
                }
            },
        };
        let fix = format!("{why}: what is sent to its unused addresses is not dropped; correct it");
        reading.skip(format!("spec.cidrs[{index}]"), text, fix);
    }
    networks.into()
}

/// A network as programs match it; nothing if it is of the other family.
pub(super) fn prefix<A: PerFamily>(network: IpNetwork) -> Option<Prefix<A>> {
    let mask = A::mask(network.prefix());
    Some(Prefix { address: A::from_ip(network.ip())?.and(mask), mask })
}

/// The smallest network with all of `hull` and with `address`.
fn grown<A: PerFamily>(hull: Prefix<A>, address: A) -> Prefix<A> {
    if hull == Prefix::NONE {
        return Prefix { address, mask: A::ONES };
    }
    if hull.contains(address) {
        return hull;
    }
    let mask = hull.mask.and(A::mask(hull.address.common_bits(address)));
    Prefix { address: address.and(mask), mask }
}
