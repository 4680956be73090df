//! Which service gets a frontend that several want.
//!
//! The present owner keeps it, so that nothing changes under established clients; only a ClusterIP
//! takes it from any other kind, because a ClusterIP is allotted and the others are asked for.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use millrace_common::address::{Address, Protocol};
use millrace_common::frontend::{FrontendKey, Kind};

use super::cluster_ips::ClusterIps;
use super::family::PerFamily;
use super::outcome::Conflict;
use super::rows::Installed;
use crate::hash::HashMap;
use crate::model::desired::{DesiredFrontend, DesiredPort};
use crate::source::{ObjectName, SharedName};

/// Frontends of one family: who has them and who waits for them.
pub(super) struct Tables<A> {
    owners: HashMap<FrontendKey<A>, Owner>,
    waiting: HashMap<FrontendKey<A>, BTreeSet<SharedName>>,
    pub(super) cluster_ips: ClusterIps<A>,
}

/// Who has a frontend.
struct Owner {
    service: SharedName,
    kind: Kind,
}

/// What one service gets of what it wants.
pub(super) struct Claims<A> {
    /// By port, in the order of the desired ports; none at all if none wants any.
    granted: Vec<Vec<DesiredFrontend<A>>>,
    /// All keys granted, sorted.
    keys: Vec<(FrontendKey<A>, Kind)>,
    /// Keys taken from other services.
    pub(super) evicted: Vec<(FrontendKey<A>, SharedName)>,
    /// Keys not granted, because other services have them.
    pub(super) waits: Vec<FrontendKey<A>>,
    /// The same in words.
    pub(super) conflicts: Vec<Conflict>,
    /// Keys granted that no row has yet.
    new_frontends: u32,
}

impl<A> Default for Tables<A> {
    fn default() -> Self {
        Self {
            owners: HashMap::default(),
            waiting: HashMap::default(),
            cluster_ips: ClusterIps::default(),
        }
    }
}

impl<A: PerFamily> Claims<A> {
    /// Settle what `name` gets.
    pub(super) fn settle(tables: &Tables<A>, name: &SharedName, ports: &[DesiredPort]) -> Self {
        let of_port = |(index, port)| A::desired(port).frontends.iter().map(move |w| (index, w));
        let mut wanted: Vec<(usize, &DesiredFrontend<A>)> =
            ports.iter().enumerate().flat_map(of_port).collect();
        // Within one Service too a ClusterIP comes before any other kind.
        wanted.sort_by_key(|(index, w)| (w.key, w.kind != Kind::ClusterIp, *index));
        let some = if wanted.is_empty() { 0 } else { ports.len() };
        let mut claims = Self {
            granted: vec![Vec::new(); some],
            keys: Vec::with_capacity(wanted.len()),
            evicted: Vec::new(),
            waits: Vec::new(),
            conflicts: Vec::new(),
            new_frontends: 0,
        };
        for (index, wanted) in wanted {
            claims.grant(tables, name, index, wanted);
        }
        claims
    }

    /// What port number `index` gets.
    pub(super) fn granted(&self, index: usize) -> &[DesiredFrontend<A>] {
        self.granted.get(index).map_or(&[], Vec::as_slice)
    }

    /// Whether any port gets it.
    pub(super) fn has(&self, key: &FrontendKey<A>) -> bool {
        self.keys.binary_search_by(|(granted, _)| granted.cmp(key)).is_ok()
    }

    /// Port number `index` gets what it wants, or not. Asked in the order of keys.
    fn grant(
        &mut self,
        tables: &Tables<A>,
        name: &SharedName,
        index: usize,
        wanted: &DesiredFrontend<A>,
    ) {
        if let Some((_, kind)) = self.keys.last().filter(|(key, _)| *key == wanted.key).copied() {
            // Another port of the same Service has it.
            return self.lose(wanted, name, kind);
        }
        match tables.owners.get(&wanted.key) {
            None => self.new_frontends += 1,
            Some(owner) if owner.service == *name => {}
            Some(owner) if wanted.kind == Kind::ClusterIp && owner.kind != Kind::ClusterIp => {
                self.evicted.push((wanted.key, owner.service.clone()));
            }
            Some(owner) => {
                self.waits.push(wanted.key);
                return self.lose(wanted, &owner.service, owner.kind);
            }
        }
        self.keys.push((wanted.key, wanted.kind));
        self.granted[index].push(*wanted);
    }

    fn lose(&mut self, wanted: &DesiredFrontend<A>, owner: &ObjectName, kind: Kind) {
        self.conflicts.push(Conflict {
            frontend: key_text(&wanted.key),
            wanted_as: wanted.kind,
            owner: owner.clone(),
            owned_as: kind,
        });
    }
}

impl<A: PerFamily> Tables<A> {
    /// Frontends there are.
    pub(super) fn frontends(&self) -> usize {
        self.owners.len()
    }

    /// Rows there are: of frontends, and of ClusterIPs as such.
    pub(super) fn rows(&self) -> usize {
        self.owners.len() + self.cluster_ips.rows()
    }

    /// The service has the row from now on.
    /// Returns what another service, or the same, had it as before.
    pub(super) fn adopt(
        &mut self,
        key: FrontendKey<A>,
        service: &SharedName,
        kind: Kind,
    ) -> Option<Kind> {
        let before = self.owners.insert(key, Owner { service: service.clone(), kind });
        let before = before.map(|owner| owner.kind);
        match (before == Some(Kind::ClusterIp), kind == Kind::ClusterIp) {
            (false, true) => self.cluster_ips.add(key.address),
            (true, false) => self.cluster_ips.remove(key.address),
            _ => {}
        }
        before
    }

    /// Nobody has the row any more.
    fn release(&mut self, key: &FrontendKey<A>) {
        let owner = self.owners.remove(key);
        if owner.is_some_and(|owner| owner.kind == Kind::ClusterIp) {
            self.cluster_ips.remove(key.address);
        }
    }

    /// Rows that the claims add.
    pub(super) fn new_rows(&self, claims: &Claims<A>) -> u32 {
        let cluster_ips = claims.keys.iter().filter(|(_, kind)| *kind == Kind::ClusterIp);
        let blocks = self.cluster_ips.new_rows(cluster_ips.map(|(key, _)| key.address));
        claims.new_frontends + blocks
    }

    /// Frontends change owners as claimed. Returns the services that waited for one just released.
    pub(super) fn hand_over(
        &mut self,
        name: &SharedName,
        old: &Installed,
        claims: &Claims<A>,
    ) -> Vec<SharedName> {
        for key in A::waits(old) {
            self.stop_waiting(key, name);
        }
        for key in &claims.waits {
            self.waiting.entry(*key).or_default().insert(name.clone());
        }
        let mut waiters = Vec::new();
        let had = old.ports.iter().flat_map(|port| &A::rows(port).frontends);
        for (key, _) in had.filter(|(key, _)| !claims.has(key)) {
            self.release(key);
            waiters.extend(self.waiting.get(key).into_iter().flatten().cloned());
        }
        for granted in claims.granted.iter().flatten() {
            let before = self.adopt(granted.key, name, granted.kind);
            if before == Some(Kind::ClusterIp) && granted.kind != Kind::ClusterIp {
                // It was out of reach for another ClusterIP and is not any more.
                waiters.extend(self.waiting.get(&granted.key).into_iter().flatten().cloned());
            }
        }
        waiters
    }

    fn stop_waiting(&mut self, key: &FrontendKey<A>, name: &SharedName) {
        let Some(names) = self.waiting.get_mut(key) else { return };
        names.remove(name);
        if names.is_empty() {
            self.waiting.remove(key);
        }
    }
}

/// The frontend as people write it.
pub(super) fn key_text<A: Address>(key: &FrontendKey<A>) -> String {
    let place = SocketAddr::new(key.address.into(), key.port.get());
    let protocol = Protocol::from_number(key.protocol).map_or("?", Protocol::name);
    format!("{place}/{protocol}")
}
