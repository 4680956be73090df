//! EndpointSlices, cut down to what selection reads: eight bytes per IPv4 endpoint.

use millrace_common::address::{Be16, Family, Protocol, V4, V6};

use super::address::{parse_address, unusable};
use super::family::PerFamily;
use super::names::canonical;
use super::problem::Reading;
use super::service::protocol;
use super::topology::fact;
use super::zones::{ZoneSet, Zones};
use crate::source::{Kind, ObjectName, labels, slim};

/// One slice.
#[derive(Clone, PartialEq)]
pub(super) struct Slice {
    pub(super) ports: Box<[SlicePort]>,
    pub(super) endpoints: Endpoints,
}

/// A port that every endpoint of the slice has.
#[derive(Clone, PartialEq)]
pub(super) struct SlicePort {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) port: Be16,
}

/// Endpoints of one family.
#[derive(Clone, PartialEq)]
pub(super) enum Endpoints {
    V4(Box<[Endpoint<V4>]>),
    V6(Box<[Endpoint<V6>]>),
}

/// One endpoint. Node names are not kept: what counts is whether they are ours.
#[derive(Clone, PartialEq)]
pub(super) struct Endpoint<A> {
    pub(super) address: A,
    pub(super) zones: ZoneSet,
    /// Bits of [`fact`] but those about zones: the zone of this node may change.
    pub(super) facts: u8,
}

/// What else is needed to read a slice.
pub(super) struct Context<'a> {
    pub(super) node_name: &'a str,
    pub(super) zones: &'a mut Zones,
    pub(super) reading: &'a mut Reading,
}

/// The name of the Service a slice belongs to; nothing if the slice is none of ours.
pub(super) fn service_of(object: &slim::EndpointSlice, namespace: &str) -> Option<ObjectName> {
    let own = &object.metadata.labels;
    if own.get(labels::HEADLESS).is_some() {
        return None;
    }
    let name = own.get(labels::SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(canonical(Kind::Service, ObjectName::new(namespace, name)))
}

impl Slice {
    /// The compact form; what cannot be used is left out and reported.
    pub(super) fn read(object: &slim::EndpointSlice, mut context: Context<'_>) -> Self {
        let ports = read_ports(&object.ports, context.reading);
        let endpoints = match object.address_type.as_str() {
            "IPv4" => Endpoints::V4(read_endpoints(&object.endpoints, &mut context)),
            "IPv6" => Endpoints::V6(read_endpoints(&object.endpoints, &mut context)),
            other => {
                let fix = "not an address type with a datapath: its endpoints get no traffic; use \
                           IPv4 or IPv6";
                context.reading.skip("addressType", other, fix);
                Endpoints::V4(Box::default())
            }
        };
        Self { ports, endpoints }
    }
}

fn read_ports(ports: &[slim::EndpointPort], reading: &mut Reading) -> Box<[SlicePort]> {
    let mut kept = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        // A slice of a headless Service may have ports without a number: none of ours.
        let Some(number) = port.port else { continue };
        let Some(name) = &port.name else {
            let fix = "no name: the port is skipped; write name: \"\" for the unnamed port";
            reading.skip(format!("ports[{index}].name"), "", fix);
            continue;
        };
        let text = port.protocol.as_deref().unwrap_or_default();
        let Some(protocol) = protocol(text) else {
            let fix = "not a protocol: the port is skipped; use TCP, UDP or SCTP";
            reading.skip(format!("ports[{index}].protocol"), text, fix);
            continue;
        };
        let Some(port) = u16::try_from(number).ok().filter(|port| *port != 0) else {
            let fix = "not a port number: the port is skipped; use 1 to 65535";
            reading.skip(format!("ports[{index}].port"), number, fix);
            continue;
        };
        kept.push(SlicePort { name: name.as_str().into(), protocol, port: Be16::new(port) });
    }
    kept.into()
}

fn read_endpoints<A: PerFamily>(
    endpoints: &[slim::Endpoint],
    context: &mut Context<'_>,
) -> Box<[Endpoint<A>]> {
    let mut kept = Vec::with_capacity(endpoints.len());
    for (index, endpoint) in endpoints.iter().enumerate() {
        let Some(text) = endpoint.addresses.first() else { continue };
        let address = match endpoint_address::<A>(text) {
            Ok(address) => address,
            Err(why) => {
                let fix = format!("{why}: the endpoint gets no traffic; correct it");
                context.reading.skip(format!("endpoints[{index}].addresses[0]"), text, fix);
                continue;
            }
        };
        let zones = context.zones.intern(&endpoint.hints.for_zones).unwrap_or_else(|| {
            let fix = "more zones than are kept, or names longer than 63 characters: the hint is \
                       skipped; use fewer and shorter ones, and restart the agent";
            context.reading.skip(format!("endpoints[{index}].hints.forZones"), "", fix);
            0
        });
        kept.push(Endpoint { address, zones, facts: facts(endpoint, context.node_name) });
    }
    kept.into()
}

fn endpoint_address<A: PerFamily>(text: &str) -> Result<A, String> {
    let address = parse_address(text).ok_or("not an IP address")?;
    if let Some(why) = unusable(address) {
        return Err(why.into());
    }
    A::from_ip(address).ok_or_else(|| format!("not an {} address", family_name(A::FAMILY)))
}

/// The family as Kubernetes writes it.
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn facts(endpoint: &slim::Endpoint, node_name: &str) -> u8 {
    let conditions = &endpoint.conditions;
    let hinted = &endpoint.hints.for_nodes;
    let bits = [
        (conditions.ready.unwrap_or(true), fact::READY),
        (conditions.serving.unwrap_or(true), fact::SERVING),
        (conditions.terminating.unwrap_or(false), fact::TERMINATING),
        (endpoint.node_name.as_deref() == Some(node_name), fact::LOCAL),
        (!hinted.is_empty(), fact::NODE_HINTED),
        (hinted.iter().any(|hint| hint.name == node_name), fact::OUR_NODE),
    ];
    bits.iter().filter(|(holds, _)| *holds).fold(0, |facts, (_, bit)| facts | bit)
}
