//! kube-proxy's healthcheck_test scenarios, and those of what it does not have.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use millrace_common::address::Family;

use super::core::{Core, Moment};
use super::node_ports::Claims;
use super::pages;
use crate::http::Page;
use crate::model::desired::HealthCheck;
use crate::source::{ObjectName, SharedName};

const BOTH: [Family; 2] = [Family::V4, Family::V6];
/// Two sync periods.
const TIMEOUT: u64 = 60;

/// A second of a clock that began at noon, UTC, 14 November 2023.
fn at(second: u64) -> Moment {
    Moment {
        wall: Duration::from_millis(1_699_963_200_500) + Duration::from_secs(second),
        monotonic: Duration::from_secs(second),
    }
}

/// One that takes part with these families, on an eligible node.
fn core(families: &[Family]) -> Core {
    let mut core = Core::new(Duration::from_secs(TIMEOUT));
    families.iter().for_each(|family| core.updated(*family, at(0)));
    core.set_node_eligible(true);
    core
}

/// Per family, in the order IPv4, IPv6.
fn healthy(core: &mut Core, second: u64) -> Vec<bool> {
    core.turns(at(second));
    core.verdict(at(second)).families.iter().map(|family| family.healthy).collect()
}

#[test]
fn a_change_may_wait_for_two_sync_periods() {
    let mut core = core(&BOTH);
    assert_eq!(healthy(&mut core, 1000), [true, true], "nothing waits: it starts up");
    core.queued(Family::V4, at(1000));
    assert_eq!(healthy(&mut core, 1059), [true, true], "not late yet");
    core.queued(Family::V4, at(1059));
    assert_eq!(healthy(&mut core, 1060), [false, true], "the oldest counts");
    assert!(!core.verdict(at(1060)).healthy);
    core.queued(Family::V6, at(1061));
    assert_eq!(healthy(&mut core, 1200), [false, false]);
    core.updated(Family::V4, at(1200));
    assert_eq!(healthy(&mut core, 1200), [true, false], "each family by itself");
    core.updated(Family::V6, at(1201));
    assert_eq!(healthy(&mut core, 5000), [true, true], "nothing waits any more");
    core.queued(Family::V4, at(5000));
    core.updated(Family::V4, at(5059));
    core.queued(Family::V4, at(5060));
    assert_eq!(healthy(&mut core, 5119), [true, true], "an update clears what waited before");
}

#[test]
fn a_family_that_takes_no_part_is_absent() {
    let core = core(&[Family::V6]);
    let verdict = core.verdict(at(1));
    assert_eq!(verdict.families.len(), 1);
    let body = pages::livez(&verdict).body;
    assert!(body.contains("IPv6") && !body.contains("IPv4"), "{body}");
}

#[test]
fn a_canary_that_fails_makes_its_family_unhealthy() {
    let mut core = core(&BOTH);
    core.set_canary(Family::V6, true);
    assert_eq!(healthy(&mut core, 1), [true, false]);
    assert_eq!(pages::healthz(&core.verdict(at(1))).status, StatusCode::SERVICE_UNAVAILABLE);
    core.set_canary(Family::V6, false);
    assert_eq!(healthy(&mut core, 2), [true, true]);
}

#[test]
fn a_loop_that_does_not_turn_is_unhealthy() {
    let mut core = core(&BOTH);
    core.turns(at(100));
    assert!(core.verdict(at(159)).healthy);
    assert!(!core.verdict(at(160)).healthy);
    core.turns(at(161));
    assert!(core.verdict(at(161)).healthy);
}

#[test]
fn only_healthz_asks_for_the_node() {
    let mut core = core(&BOTH);
    core.turns(at(10));
    let codes = |core: &Core| {
        let verdict = core.verdict(at(10));
        (pages::healthz(&verdict).status.as_u16(), pages::livez(&verdict).status.as_u16())
    };
    assert_eq!(codes(&core), (200, 200));
    core.set_node_eligible(false);
    assert_eq!(codes(&core), (503, 200), "the node goes, the agent works");
    core.set_canary(Family::V4, true);
    assert_eq!(codes(&core), (503, 503));
    core.set_node_eligible(true);
    assert_eq!(codes(&core), (503, 503));
}

fn header<'a>(page: &'a Page, name: &str) -> Option<&'a str> {
    page.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
}

#[test]
fn bodies_are_kube_proxys() {
    let mut core = core(&BOTH);
    core.updated(Family::V6, at(7));
    core.set_node_eligible(false);
    let verdict = core.verdict(at(9));
    let time = |second: u8| format!("2023-11-14T12:00:0{second}.5Z");
    let side = |second: u8| format!(r#"{{"lastUpdated":"{}","healthy":true}}"#, time(second));
    let status = format!(r#""status":{{"IPv4":{},"IPv6":{}}}"#, side(0), side(7));
    let healthz = pages::healthz(&verdict);
    let begin = format!(r#"{{"lastUpdated":"{}","currentTime":"{}""#, time(7), time(9));
    let wanted = format!(r#"{begin},"nodeEligible":false,"healthy":true,{status}}}"#);
    assert_eq!(healthz.body, wanted);
    assert_eq!(header(&healthz, "content-type"), Some("application/json"));
    assert_eq!(header(&healthz, "x-content-type-options"), Some("nosniff"));
    // All is well: the time is now.
    let begin = format!(r#"{{"lastUpdated":"{}","currentTime":"{}""#, time(9), time(9));
    let wanted = format!(r#"{begin},"healthy":true,{status}}}"#);
    assert_eq!(pages::livez(&verdict).body, wanted);
}

#[test]
fn a_services_page_is_kube_proxys() {
    let name = ObjectName::new("shop", "web");
    let page = pages::service(&name, 2, true);
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                \t\"localEndpoints\": 2,\n\t\"serviceProxyHealthy\": true\n}";
    assert_eq!((page.status, page.body.as_str()), (StatusCode::OK, body));
    assert_eq!(header(&page, "x-load-balancing-endpoint-weight"), Some("2"));
    assert_eq!(header(&page, "content-type"), Some("application/json"));
    assert_eq!(header(&page, "x-content-type-options"), Some("nosniff"));
    for (endpoints, healthy) in [(0, true), (1, false), (0, false)] {
        let page = pages::service(&name, endpoints, healthy);
        assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE, "{endpoints} {healthy}");
        let weight = endpoints.to_string();
        assert_eq!(header(&page, "x-load-balancing-endpoint-weight"), Some(weight.as_str()));
    }
}

#[test]
fn whoever_has_a_port_keeps_it() {
    fn settle(claims: &mut Claims, wanted: &[(&str, u16)]) -> Vec<String> {
        let check = |port| HealthCheck { port, v4: Some(0), v6: None };
        let checks: BTreeMap<SharedName, HealthCheck> = wanted
            .iter()
            .map(|(name, port)| (ObjectName::new("d", *name).into(), check(*port)))
            .collect();
        let losers = claims.settle(&checks).into_iter();
        losers.map(|(name, holder)| format!("{name} to {}", holder.unwrap())).collect()
    }
    let mut claims = Claims::default();
    assert!(settle(&mut claims, &[("b", 1), ("c", 2)]).is_empty());
    assert_eq!(settle(&mut claims, &[("a", 1), ("b", 1), ("c", 2)]), ["d/a to d/b"]);
    assert_eq!(settle(&mut claims, &[("a", 2), ("b", 1), ("c", 2)]), ["d/a to d/c"]);
    assert!(settle(&mut claims, &[("a", 2), ("b", 1), ("c", 3)]).is_empty(), "c gave it up");
    assert_eq!(settle(&mut claims, &[("a", 2), ("b", 2)]), ["d/b to d/a"]);
}
