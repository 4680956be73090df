//! A client outside the cluster. No hook sees its sockets: its packets are translated, on the
//! devices of the node they come to.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Family, address};
use serde_json::Value;

use crate::report::Report;
use crate::scenes::{ONCE, curl, show, url};
use crate::servers::ask;
use crate::shop::{BALANCED, FAMILIES, LOCAL_NODE_PORT, NODE_PORT, Shop};

/// The scene.
pub fn outside(shop: &mut Shop, report: &mut Report) -> Result<()> {
    for family in FAMILIES {
        // As a router would that was told by BGP, or a load balancer that leaves addresses alone.
        let (vip, n1) = (balanced(family), shop.lab.node("n1").address(family));
        shop.lab.outside().ip(&[format!("route replace {vip} via {n1}")])?;
    }
    remembered(shop, report)?;
    let mut rows = Vec::new();
    for family in FAMILIES {
        let n1 = shop.lab.node("n1").address(family);
        for (what, ip, port) in [("NodePort", n1, NODE_PORT), ("LB IP", balanced(family), 80)] {
            let tally = curl(shop.lab.outside(), &url(ip, port))?;
            rows.push((format!("outside to {what} {}", SocketAddr::new(ip, port)), tally));
        }
    }
    show(report, &rows, &["web-0", "web-1", "web-2"]);
    FAMILIES.into_iter().try_for_each(|family| policies(shop, report, family))
}

fn balanced(family: Family) -> IpAddr {
    address::external(family, BALANCED)
}

/// Three conversations, what n1 remembers of them, and where their frontends lead.
fn remembered(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let n1 = shop.lab.node("n1").address(Family::V4);
    let frontends =
        [(n1, NODE_PORT), (balanced(Family::V4), 80), (n1, LOCAL_NODE_PORT)].map(SocketAddr::from);
    let connect = || frontends.map(TcpStream::connect).into_iter().collect::<Result<Vec<_>, _>>();
    let held = shop.lab.outside().within(connect)?.context("connect from outside")?;
    let client = address::outside(Family::V4).to_string();
    report.note("Three connections of the client to n1; `millrace flows` there:");
    let flows = ["flows", "--client", &client];
    report.output(&operate(shop, &flows)?);
    let listing: Value =
        serde_json::from_str(&operate(shop, &[&flows[..], &["-o", "json"]].concat())?)?;
    let listed = listing["flows"].as_array().context("a list of flows")?;
    let (mut right, mut kept) = (listed.len() == frontends.len(), 0);
    for flow in listed {
        right &= flow["state"] == "established";
        let masquerades = flow.get("masqueradedAs").is_some();
        kept += usize::from(!masquerades && flow["service"] == "shop/web-local:http");
        right &= masquerades || flow["service"] == "shop/web-local:http";
    }
    let claim = "all are established; the Local one keeps the client's address";
    report.check(right && kept == 1, claim);
    report.note("`millrace services web-local`: from n1 to any endpoint, from outside to n1's own");
    report.output(&operate(shop, &["services", "web-local"])?);
    drop(held);
    Ok(())
}

/// What servers see of the client under each `externalTrafficPolicy`, and silence where a Local
/// policy has nobody.
fn policies(shop: &Shop, report: &mut Report, family: Family) -> Result<()> {
    let outside = shop.lab.outside();
    let [n1, n2] = ["n1", "n2"].map(|node| shop.lab.node(node).address(family));
    let client = address::outside(family).to_string();
    let local = url(n1, LOCAL_NODE_PORT);
    let seen = ask(outside, "curl", &[ONCE, &[&local]].concat())?;
    let claim = format!("externalTrafficPolicy: Local keeps the client's address: {}", seen.trim());
    report.check(seen.trim() == format!("web-0 saw {client}"), &claim);
    let silent = ["-s", "--max-time", "0.3", &url(n2, LOCAL_NODE_PORT)];
    let code = outside.command("curl").args(silent).output()?.status.code();
    report.check(code == Some(28), &format!("n2 has no such endpoint and is silent ({family})"));
    Ok(())
}

/// The output of a command on n1.
fn operate(shop: &mut Shop, arguments: &[&str]) -> Result<String> {
    let output = shop.agent("n1").operate(arguments)?;
    ensure!(output.status.success(), "millrace {}: {output:?}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}
