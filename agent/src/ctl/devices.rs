//! The part of `millrace status` about the node and its devices, read off the maps and the hooks.

use std::ffi::CStr;
use std::net::IpAddr;

use anyhow::{Context, Result};
use millrace_common::node::{DeviceRow, NodeRow, device, node};
use serde::Serialize;

use crate::bpf::node_maps::NodeMaps;
use crate::bpf::packet::{self, Direction, Hook};
use crate::bpf::pins::Pins;

/// What the packet path knows of the node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// What masqueraded packets come from, unless their device has an address.
    addresses: Vec<IpAddr>,
    /// First and last port of masqueraded flows; none: no flow can be masqueraded.
    masquerade_ports: Option<[u16; 2]>,
    /// What pods send to ClusterIPs is masqueraded as well.
    masquerade_all: bool,
    /// How pods' packets are told from others: `device`, `address` or `off`.
    detector: &'static str,
}

/// A device that the packet path serves.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its name in this network namespace.
    name: Option<String>,
    index: u32,
    /// `pod`, `uplink` or `tunnel`.
    role: &'static str,
    /// What comes in by it counts as from this node's pods.
    from_pods: bool,
    /// What masqueraded packets that leave here come from.
    masquerade_addresses: Vec<IpAddr>,
    ingress: Attachment,
    egress: Attachment,
}

/// One of a device's hooks.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attachment {
    /// `attached` or `missing`.
    state: &'static str,
    program_id: Option<u32>,
}

impl Attachment {
    fn of(pins: &Pins, hook: Hook) -> Result<Self> {
        let program_id = packet::program_on(pins, hook).context("look at a device's hook")?;
        let state = if program_id.is_some() { "attached" } else { "missing" };
        Ok(Self { state, program_id })
    }
}

impl Device {
    fn of(pins: &Pins, index: u32, row: &DeviceRow) -> Result<Self> {
        let hook = |direction| Attachment::of(pins, Hook { index, direction });
        Ok(Self {
            name: name_of(index),
            index,
            role: match row.flags {
                flags if flags & device::UPLINK != 0 => "uplink",
                flags if flags & device::TUNNEL != 0 => "tunnel",
                _ => "pod",
            },
            from_pods: row.flags & device::FROM_PODS != 0,
            masquerade_addresses: specified([row.masquerade_v4.into(), row.masquerade_v6.into()]),
            ingress: hook(Direction::In)?,
            egress: hook(Direction::Out)?,
        })
    }

    /// Both hooks have our program.
    pub const fn is_attached(&self) -> bool {
        self.ingress.program_id.is_some() && self.egress.program_id.is_some()
    }
}

impl Node {
    fn of(row: &NodeRow) -> Self {
        let has = |bit: u32| row.flags & bit != 0;
        Self {
            addresses: specified([row.v4.address.into(), row.v6.address.into()]),
            masquerade_ports: (row.first_port > 0 && row.first_port <= row.last_port)
                .then_some([row.first_port, row.last_port]),
            masquerade_all: has(node::MASQUERADE_ALL),
            detector: match (has(node::DETECTOR), has(node::DETECT_BY_DEVICE)) {
                (false, _) => "off",
                (true, true) => "device",
                (true, false) => "address",
            },
        }
    }
}

/// Addresses that are not all zero.
fn specified(addresses: [IpAddr; 2]) -> Vec<IpAddr> {
    addresses.into_iter().filter(|address| !address.is_unspecified()).collect()
}

/// A device's name, if it is in this network namespace.
fn name_of(index: u32) -> Option<String> {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the size that the function writes at most.
    let name = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr()) };
    if name.is_null() {
        return None;
    }
    // SAFETY: the function has written a string with its final zero into the buffer.
    let name = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    Some(name.to_string_lossy().into_owned())
}

/// The node and its devices, by index.
pub fn gather(pins: &Pins) -> Result<(Node, Vec<Device>)> {
    let maps = NodeMaps::open(&pins.maps())?;
    let row = maps.node()?.context("the map of the node has no row")?;
    let rows = maps.devices()?.into_iter();
    let devices = rows.map(|(index, row)| Device::of(pins, index, &row)).collect::<Result<_>>()?;
    Ok((Node::of(&row), devices))
}

/// Print a line about the node, for people.
pub fn print_node(node: &Node) {
    let ports = match node.masquerade_ports {
        Some([first, last]) => format!("from ports {first}-{last}"),
        None => "NOT POSSIBLE: no ports are left for it".to_owned(),
    };
    let all = if node.masquerade_all { ", of pods to ClusterIPs as well" } else { "" };
    println!("Masq:    {ports}{all}");
    println!(
        "Pods:    {}",
        match node.detector {
            "device" => "told from others by the device they come in by",
            "address" => "told from others by their source addresses",
            _ => "not told from others",
        }
    );
}

/// Print the devices, for people.
pub fn print_devices(devices: &[Device]) {
    let header = ["DEVICE", "INDEX", "ROLE", "INGRESS", "EGRESS", "MASQUERADE AS"];
    let mut table = super::table(&header);
    for device in devices {
        let addresses: Vec<_> =
            device.masquerade_addresses.iter().map(ToString::to_string).collect();
        table.add_row([
            device.name.clone().unwrap_or_else(|| "?".to_owned()),
            device.index.to_string(),
            device.role.to_owned(),
            device.ingress.state.to_owned(),
            device.egress.state.to_owned(),
            if addresses.is_empty() { "the node".to_owned() } else { addresses.join(" ") },
        ]);
    }
    println!("{table}\n");
}
