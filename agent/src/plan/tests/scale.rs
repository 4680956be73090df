//! Work is in proportion to what changed, not to what exists.

use super::*;
use crate::model::Model;
use crate::settings::Policy;
use crate::source::{Event, Kind, Object, labels, slim};

const SERVICES: u32 = 20_000;
const ENDPOINTS: u32 = 3;
const CHANGED: u32 = 12_345;
/// Traffic, name, slots, and the port's frontend.
const OTHER_OPS: u32 = 4;

fn service(index: u32) -> Event {
    let address = Ipv4Addr::from(0x0a60_0001 + index).to_string();
    let mut object = slim::Service::default();
    object.metadata.namespace = "ns".into();
    object.metadata.name = format!("s{index}");
    object.spec.cluster_ip.clone_from(&address);
    object.spec.cluster_ips = vec![address];
    object.spec.ip_families = vec!["IPv4".into()];
    object.spec.ports = vec![slim::ServicePort { port: 80, ..Default::default() }];
    Event::Apply(Object::Service(object))
}

fn slice(index: u32, endpoints: impl Iterator<Item = u32>) -> Event {
    let mut object = slim::EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
    object.metadata.namespace = "ns".into();
    object.metadata.name = format!("s{index}-x");
    object.metadata.labels.insert(labels::SERVICE_NAME, format!("s{index}"));
    object.ports =
        vec![slim::EndpointPort { name: Some(String::new()), protocol: None, port: Some(80) }];
    let endpoint = |n| slim::Endpoint {
        addresses: vec![Ipv4Addr::from(0x0b00_0000 + n).to_string()],
        ..Default::default()
    };
    object.endpoints = endpoints.map(endpoint).collect();
    Event::Apply(Object::EndpointSlice(object))
}

#[test]
fn one_changed_endpoint_among_all_touches_its_service_alone() {
    let mut model = Model::new("here", Policy::default());
    for index in 0..SERVICES {
        model.apply(service(index));
        model.apply(slice(index, index * ENDPOINTS..(index + 1) * ENDPOINTS));
    }
    model.apply(Event::Complete(Kind::Service));
    model.apply(Event::Complete(Kind::EndpointSlice));
    let mut planner = Planner::new(Capacity::default());
    let mut id = 0;
    for name in model.take_dirty() {
        let ops = planner.plan(&model.desired(&name), Duration::ZERO).unwrap().ops;
        assert_eq!(ops.len() as u32, ENDPOINTS + OTHER_OPS);
        if name == ObjectName::new("ns", format!("s{CHANGED}")) {
            let Some(Op::Service(found, Some(_))) = ops.get(1) else { panic!("{ops:?}") };
            id = *found;
        }
    }

    let first = CHANGED * ENDPOINTS;
    model.apply(slice(CHANGED, [first, first + 1, SERVICES * ENDPOINTS].into_iter()));
    let dirty = model.take_dirty();
    assert_eq!(dirty, [ObjectName::new("ns", format!("s{CHANGED}"))]);
    let planned = planner.plan(&model.desired(&dirty[0]), GRACE).unwrap();
    assert_eq!(verbs(&planned), ["backend", "slots", "flip", "gone"]);
    for op in &planned.ops {
        match op {
            Op::BackendV4(_, row) => assert_eq!(row.service, id),
            Op::FrontendV4(_, Some(row)) => assert_eq!(row.service, id),
            Op::Slots(_, ids) => assert_eq!(ids.len() as u32, ENDPOINTS),
            _ => panic!("{op:?}"),
        }
    }
}
