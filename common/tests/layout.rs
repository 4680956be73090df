//! The rows as bytes: sizes, offsets and byte order. A change here is a change of the ABI:
//! raise `ABI_VERSION` with it.

use std::mem::{align_of, offset_of, size_of};
use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_common::ABI_VERSION;
use millrace_common::address::{Be16, V4, V6};
use millrace_common::affinity::{AffinityEntry, AffinityKey};
use millrace_common::backend::{Backend, BackendPair, state};
use millrace_common::counters::COUNT;
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::flow_filter::FlowFilter;
use millrace_common::fragment::{Fragment, FragmentKey};
use millrace_common::frontend::{Frontend, FrontendKey, Kind, SlotRange, flags};
use millrace_common::frontend_filter::{Bit, FrontendFilter};
use millrace_common::node::{DeviceRow, NodeFamily, NodeRow, SourceKey, SourceNet};
use millrace_common::peer::{Connected, Peer, UdpPeers};
use millrace_common::row::{Pair, Row};
use millrace_common::service::{ServiceBlock, ServiceKey, ServicePart, ServiceRow};
use millrace_common::traffic::Traffic;

/// Assert size and alignment of a row, and the offsets of its fields.
macro_rules! layout {
    ($row:ty, size $size:literal, align $align:literal, $($field:ident at $offset:literal),+) => {
        assert_eq!(size_of::<$row>(), $size, "size of {}", stringify!($row));
        assert_eq!(align_of::<$row>(), $align, "alignment of {}", stringify!($row));
        $(assert_eq!(
            offset_of!($row, $field),
            $offset,
            "{}.{}",
            stringify!($row),
            stringify!($field)
        );)+
    };
}

#[test]
fn this_is_the_layout_of_the_version() {
    assert_eq!(ABI_VERSION, 8);
    assert_eq!((size_of::<Be16>(), size_of::<V4>(), size_of::<V6>()), (2, 4, 16));
    assert_eq!(COUNT, 42);
}

#[test]
fn frontends() {
    layout!(FrontendKey<V4>, size 8, align 4, address at 0, port at 4, protocol at 6, pad at 7);
    layout!(FrontendKey<V6>, size 20, align 4, address at 0, port at 16, protocol at 18, pad at 19);
    layout!(SlotRange, size 8, align 4, first at 0, count at 4);
    layout!(
        Frontend, size 32, align 4,
        service at 0, flags at 4, near at 8, far at 16, affinity_secs at 24, check at 28
    );
}

#[test]
fn backends() {
    layout!(
        Backend<V4>, size 16, align 4,
        port at 0, state at 2, family at 3, generation at 4, service at 8, address at 12
    );
    layout!(
        Backend<V6>, size 28, align 4,
        port at 0, state at 2, family at 3, generation at 4, service at 8, address at 12
    );
    assert_eq!((size_of::<BackendPair>(), align_of::<BackendPair>()), (32, 4));
    assert_eq!((size_of::<Pair<u32>>(), align_of::<Pair<u32>>()), (8, 4));
}

#[test]
fn services() {
    layout!(ServiceKey, size 8, align 4, block at 0, part at 4);
    assert_eq!((size_of::<ServicePart>(), align_of::<ServicePart>()), (72, 1));
    assert_eq!((size_of::<ServiceBlock>(), align_of::<ServiceBlock>()), (6 * 72, 1));
    // Lengths of namespace, name and port name, the protocol, and the names.
    let row = ServiceRow::new("ns", "web", "http", 6).unwrap();
    assert_eq!(&row.part(0).0[..16], b"\x02\x03\x04\x06nswebhttp\0\0\0");
}

#[test]
fn affinity() {
    layout!(AffinityKey, size 24, align 4, client at 0, service at 16, family at 20);
    layout!(AffinityEntry, size 16, align 8, backend at 0, generation at 4, last_used_ns at 8);
}

#[test]
fn flows() {
    layout!(
        FlowKey<V4>, size 16, align 4,
        source at 0, destination at 4, source_port at 8, destination_port at 10, protocol at 12,
        side at 13, pad at 14
    );
    layout!(
        FlowKey<V6>, size 40, align 4,
        source at 0, destination at 16, source_port at 32, destination_port at 34,
        protocol at 36, side at 37, pad at 38
    );
    layout!(
        Flow<V4>, size 40, align 4,
        bytes at 0, address at 8, port at 12, other_port at 14, role at 16, bits at 17,
        seen at 18, last_used_secs at 20, since_secs at 24, service at 28,
        backend_or_device at 32, generation_or_ack at 36
    );
    layout!(
        Flow<V6>, size 52, align 4,
        bytes at 0, address at 8, port at 24, other_port at 26, role at 28, bits at 29,
        seen at 30, last_used_secs at 32, since_secs at 36, service at 40,
        backend_or_device at 44, generation_or_ack at 48
    );
    layout!(
        FragmentKey<V6>, size 40, align 4,
        source at 0, destination at 16, id at 32, protocol at 36, side at 37, pad at 38
    );
    layout!(Fragment<V6>, size 20, align 4, address at 0, since_secs at 16);
}

#[test]
fn filters() {
    layout!(FlowFilter, size 524_352, align 4, in_force at 0, cells at 64);
    layout!(FrontendFilter, size 131_072, align 8, ruled_out at 0);
    let key = FlowKey {
        source: V4::from(Ipv4Addr::new(192, 0, 2, 1)),
        destination: Ipv4Addr::new(10, 96, 0, 1).into(),
        source_port: Be16::new(40_000),
        destination_port: Be16::new(80),
        protocol: 6,
        side: 0,
        pad: 0,
    };
    assert_eq!((key.cell(), FlowKey { side: 1, ..key }.cell()), (87284, 87285));
    let v6: V6 = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa).into();
    let bits = [Bit::of(&key.destination), Bit::of(&v6)];
    assert_eq!(
        bits.map(|bit| (bit.word(), bit.mask().trailing_zeros())),
        [(13918, 25), (9679, 37)]
    );
}

#[test]
fn the_node() {
    layout!(
        DeviceRow, size 32, align 4,
        flags at 0, masquerade_v4 at 4, masquerade_v6 at 8, bridge at 24, pad at 30
    );
    layout!(
        NodeRow, size 268, align 4,
        flags at 0, first_port at 4, last_port at 6, v4 at 8, v6 at 60
    );
    layout!(
        NodeFamily<V4>, size 52, align 4,
        address at 0, pods at 4, service_hull at 12, service_cidrs at 20
    );
    layout!(SourceKey<V4>, size 12, align 4, bits at 0, net at 4);
    layout!(SourceNet<V6>, size 20, align 4, service at 0, address at 4);
    layout!(Traffic, size 16, align 8, opened at 0, failed at 8);
}

#[test]
fn peers() {
    layout!(
        Peer, size 48, align 4,
        dialled at 0, backend at 16, dialled_port at 32, backend_port at 34, id at 36,
        generation at 40, last_used_secs at 44
    );
    layout!(Connected, size 64, align 4, peer at 0, protocol at 48, pad at 49);
    layout!(UdpPeers, size 776, align 4, recent at 0, next at 768, last at 772);
}

#[test]
fn numbers_in_rows() {
    assert_eq!([state::GONE, state::CLUSTER, state::LOCAL, state::SERVING], [0, 1, 2, 4]);
    let bits = [
        flags::AFFINITY,
        flags::NODE_ONLY,
        flags::NEAR_DROP,
        flags::FAR_DROP,
        flags::NEAR_LOCAL,
        flags::FAR_LOCAL,
        flags::SOURCE_RANGES,
        flags::NODE_ALLOWED,
    ];
    assert_eq!(bits, [1, 2, 4, 8, 16, 32, 64, 128]);
    let kinds = [Kind::ClusterIp, Kind::ExternalIp, Kind::LoadBalancer, Kind::NodePort];
    assert_eq!(kinds.map(Kind::bits), [1 << 24, 2 << 24, 3 << 24, 4 << 24]);
    for kind in kinds {
        let row = Frontend { flags: kind.bits() | bits.iter().sum::<u32>(), ..Frontend::default() };
        assert_eq!(row.kind(), Some(kind));
    }
}

#[test]
fn addresses_and_ports_stand_in_network_order() {
    let address: V4 = Ipv4Addr::new(10, 96, 0, 1).into();
    let key = FrontendKey::new(address, Be16::new(443), 6);
    assert_eq!(key.as_bytes(), [10, 96, 0, 1, 0x01, 0xbb, 6, 0]);
    let address: V6 = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0xa).into();
    let key = FrontendKey::new(address, Be16::new(53), 17);
    let expected = [0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa, 0, 53, 17, 0];
    assert_eq!(key.as_bytes(), expected);
    assert_eq!(FrontendKey::<V6>::from_bytes(&expected), Some(key));
    assert_eq!(FrontendKey::<V6>::from_bytes(&expected[1..]), None);
}
