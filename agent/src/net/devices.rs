//! The node's devices, their addresses and its default routes, followed live.
//!
//! Notifications only say when to look: what is true is always read whole, so that one that was
//! lost costs a delay and no more. Routes are read when a default route may have changed; a router
//! has many others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;

use crate::devices::{Device, DeviceAddress, LinkLayer, Scope};

/// Notifications come in bursts (a device with its addresses): wait at least this long for the
/// rest. A new pod waits as well, so it is short.
const SETTLE: Duration = Duration::from_millis(2);
/// With many devices reading takes long; then wait longer, so that it does not take all the time...
const SETTLE_PER_READ: u32 = 4;
/// ... but at most this long.
const SETTLE_MAX: Duration = Duration::from_millis(50);
/// How often to look without a notification: the kernel drops some when we are slow.
const RESYNC: Duration = Duration::from_secs(30);

/// `IFA_F_TEMPORARY` (linux/if_addr.h): for IPv6 the bit that means "secondary" for IPv4.
const TEMPORARY: AddressFlags = AddressFlags::Secondary;

/// What a notification says.
type Notification = NetlinkMessage<RouteNetlinkMessage>;

/// Devices that carry a default route.
#[derive(Default)]
struct DefaultRoutes {
    v4: BTreeSet<u32>,
    v6: BTreeSet<u32>,
}

impl DefaultRoutes {
    fn carries(&self, index: u32) -> bool {
        self.v4.contains(&index) || self.v6.contains(&index)
    }
}

/// Read the devices now, and keep `sender` up to date until nobody listens. None: not read yet.
pub async fn follow(sender: watch::Sender<Option<Vec<Device>>>) -> Result<()> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut notifications) =
        rtnetlink::new_multicast_connection(&groups).context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    let mut routes = DefaultRoutes::default();
    // What has to be read: links and addresses, and routes.
    let (mut stale, mut routes_stale) = (true, true);
    let mut settle = SETTLE;
    let mut read_at = Instant::now();
    loop {
        if routes_stale {
            routes = read_routes(&handle).await?;
        }
        if stale || routes_stale {
            let begun = Instant::now();
            let devices = Some(read_devices(&handle, &routes).await?);
            settle = (begun.elapsed() * SETTLE_PER_READ).clamp(SETTLE, SETTLE_MAX);
            read_at = begun;
            sender.send_if_modified(|known| {
                let changed = *known != devices;
                *known = devices;
                changed
            });
        }
        (stale, routes_stale) = (false, false);
        tokio::select! {
            () = sender.closed() => break,
            Some((message, _)) = notifications.next() => {
                tokio::time::sleep(settle).await;
                let mut note = |message: &Notification| {
                    stale |= is_about_devices(message);
                    routes_stale |= is_about_default_routes(message, &routes);
                };
                note(&message);
                while let Ok((message, _)) = notifications.try_recv() {
                    note(&message);
                }
            }
            () = tokio::time::sleep(RESYNC) => {}
        }
        // Also when notifications of no interest keep coming.
        if read_at.elapsed() >= RESYNC {
            (stale, routes_stale) = (true, true);
        }
    }
    connection.abort();
    Ok(())
}

fn is_about_devices(message: &Notification) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else {
        return false;
    };
    matches!(
        message,
        RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_)
    )
}

/// The kernel does not tell of IPv4 routes that go with their device or address.
fn is_about_default_routes(message: &Notification, routes: &DefaultRoutes) -> bool {
    let NetlinkPayload::InnerMessage(message) = &message.payload else {
        return false;
    };
    match message {
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.header.destination_prefix_length == 0
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            routes.carries(link.header.index)
        }
        RouteNetlinkMessage::DelAddress(address) => routes.carries(address.header.index),
        _ => false,
    }
}

async fn read_routes(handle: &Handle) -> Result<DefaultRoutes> {
    // One after the other: a socket lists one thing at a time, and refuses a second with EBUSY.
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    Ok(DefaultRoutes {
        v4: read_carriers(handle, v4).await.context("list IPv4 routes over netlink")?,
        v6: read_carriers(handle, v6).await.context("list IPv6 routes over netlink")?,
    })
}

/// The devices that default routes of one family lead out by.
async fn read_carriers(handle: &Handle, family: RouteMessage) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    let mut routes = std::pin::pin!(handle.route().get(family).execute());
    while let Some(route) = routes.try_next().await? {
        found.extend(carriers(&route));
    }
    Ok(found)
}

/// The devices that a default route leads out by; none for other routes.
fn carriers(route: &RouteMessage) -> Vec<u32> {
    let default = route.header.destination_prefix_length == 0;
    if !default || route.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(of).collect()
}

async fn read_devices(handle: &Handle, routes: &DefaultRoutes) -> Result<Vec<Device>> {
    let mut addresses: BTreeMap<u32, Vec<DeviceAddress>> = BTreeMap::new();
    let messages = handle.address().get().execute();
    let mut messages = std::pin::pin!(messages);
    while let Some(message) =
        messages.try_next().await.context("list the node's addresses over netlink")?
    {
        let of_device = addresses.entry(message.header.index).or_default();
        of_device.extend(device_address(&message));
    }
    let mut request = handle.link().get();
    request = request.set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let messages = request.execute();
    let mut messages = std::pin::pin!(messages);
    let mut devices = Vec::new();
    while let Some(message) =
        messages.try_next().await.context("list the node's devices over netlink")?
    {
        let index = message.header.index;
        devices.push(Device {
            addresses: addresses.remove(&index).unwrap_or_default(),
            default_v4: routes.v4.contains(&index),
            default_v6: routes.v6.contains(&index),
            ..device(&message)
        });
    }
    devices.sort_by_key(|device| device.index);
    Ok(devices)
}

/// A device without its addresses and routes.
fn device(message: &LinkMessage) -> Device {
    let mut device = Device {
        index: message.header.index,
        name: String::new(),
        kind: None,
        link_layer: link_layer(message.header.link_layer_type),
        master: None,
        parent: None,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        addresses: Vec::new(),
        default_v4: false,
        default_v6: false,
    };
    let mut parent_is_elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
            LinkAttribute::Controller(index) => device.master = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Link(index) => device.parent = Some(*index).filter(|i| *i != 0),
            LinkAttribute::LinkNetNsId(_) => parent_is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                device.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if parent_is_elsewhere {
        device.parent = None;
    }
    device
}

fn link_layer(kind: LinkLayerType) -> LinkLayer {
    LinkLayer::from_hardware_type(u16::from(kind))
}

fn device_address(message: &AddressMessage) -> Option<DeviceAddress> {
    // On a point-to-point device `Address` is the other end; `Local`, where present, is ours.
    let attributes = message.attributes.iter();
    let local = attributes.clone().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let given = attributes.clone().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    let flags = attributes.clone().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let address = local.or(given)?;
    let mut fleeting = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    if address.is_ipv6() {
        fleeting |= TEMPORARY;
    }
    Some(DeviceAddress {
        address,
        scope: match message.header.scope {
            AddressScope::Universe | AddressScope::Site => Scope::Global,
            AddressScope::Link => Scope::Link,
            _ => Scope::Host,
        },
        lasting: !flags.is_some_and(|flags| flags.intersects(fleeting)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_device_is_among_ours() {
        let (sender, mut receiver) = watch::channel(None);
        let task = tokio::spawn(follow(sender));
        receiver.changed().await.unwrap();
        let devices = receiver.borrow().clone().unwrap();
        let loopback = devices.iter().find(|device| device.name == "lo").unwrap();
        assert_eq!((loopback.index, loopback.link_layer), (1, LinkLayer::Loopback));
        let addresses: Vec<_> = loopback.addresses.iter().map(|known| known.address).collect();
        assert!(addresses.contains(&"127.0.0.1".parse().unwrap()), "{addresses:?}");
        drop(receiver);
        task.await.unwrap().unwrap();
    }
}
