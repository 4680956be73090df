//! The addresses of the node's interfaces, followed live: NodePorts may be served on them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::address::AddressAttribute;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

/// Notifications come in bursts (an interface with its addresses): wait this long for the rest.
const SETTLE: Duration = Duration::from_millis(50);
/// How often to look without a notification: the kernel drops some when we are slow.
const RESYNC: Duration = Duration::from_secs(30);

/// Read the addresses now, and keep `sender` up to date until nobody listens. None: not read yet.
pub async fn follow(sender: watch::Sender<Option<Vec<IpAddr>>>) -> Result<()> {
    let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut notifications) =
        rtnetlink::new_multicast_connection(&groups).context("open a netlink socket")?;
    let connection = tokio::spawn(connection);
    loop {
        let addresses = Some(read(&handle).await?);
        sender.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
        tokio::select! {
            () = sender.closed() => break,
            _ = notifications.next() => tokio::time::sleep(SETTLE).await,
            () = tokio::time::sleep(RESYNC) => {}
        }
        while notifications.try_recv().is_ok() {}
    }
    connection.abort();
    Ok(())
}

/// Every address of every interface, in order, without repetition.
async fn read(handle: &Handle) -> Result<Vec<IpAddr>> {
    let messages: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .context("list the node's addresses over netlink")?;
    // On a point-to-point interface `Address` is the other end; `Local`, where present, is ours.
    let own = |attributes: &[AddressAttribute]| {
        let local = attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        local.or_else(|| {
            attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            })
        })
    };
    let addresses: BTreeSet<IpAddr> =
        messages.iter().filter_map(|message| own(&message.attributes)).collect();
    Ok(addresses.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_address_is_among_ours() {
        let (sender, mut receiver) = watch::channel(None);
        let task = tokio::spawn(follow(sender));
        receiver.changed().await.unwrap();
        let addresses = receiver.borrow().clone().unwrap();
        assert!(addresses.contains(&"127.0.0.1".parse().unwrap()));
        drop(receiver);
        task.await.unwrap().unwrap();
    }
}
