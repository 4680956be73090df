//! What the real API server is told: rights, the node, and the Services that every site has.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_tests::apiserver::real::RealApi;
use millrace_tests::lab::{Family, Node};
use millrace_tests::{manifest, wait};
use serde_json::{Value, json};

use crate::services::{Extra, NAMESPACE, Shape};
use crate::tables::thousands;

/// Kinds of the agent's manifest that give it its rights.
const RIGHTS: [&str; 3] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
/// How long a new API server may take until it has made its own namespaces, and knows which
/// addresses Services may have.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects from one line about the progress to the next.
const PROGRESS: usize = 5000;

/// Make everything that a site of this shape serves on a node.
pub fn make(api: &RealApi, node: &Node, shape: Shape) -> Result<()> {
    let begun = Instant::now();
    let rights = rights()?;
    wait::until("the API server to take the agent's rights", BEGIN_TIMEOUT, || {
        rights.iter().try_for_each(|object| api.apply(object))
    })?;
    // kube-proxy waits half a minute for a node's address.
    api.apply(&manifest::node(node, &[Family::V4, Family::V6], None))?;
    api.apply(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    }))?;
    let objects = objects(shape);
    let (first, others) = objects.split_at(1);
    wait::until("the API server to take a Service", BEGIN_TIMEOUT, || {
        api.create_all(first, |_| {})
    })?;
    api.create_all(others, |count| {
        let (count, all) = (count + first.len(), objects.len());
        if count % PROGRESS == 0 || count == all {
            let [count, all] = [count, all].map(|count| thousands(count as u32));
            println!("  {count} of {all} objects made: {:.1} s", begun.elapsed().as_secs_f64());
        }
    })
}

/// Take back what changes have left.
pub fn reset(api: &RealApi, shape: Shape) -> Result<()> {
    let slice = shape.extra_entry(Extra::Changing, 0).slice(Family::V4);
    api.patch(&slice, &json!({ "endpoints": slice["endpoints"] })).map(drop)
}

/// What lets the agent read what it must, from the manifest that people install.
fn rights() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests/install.yaml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let mut objects = manifest::documents(&text)?;
    objects.retain(|object| RIGHTS.iter().any(|kind| object["kind"] == *kind));
    Ok(objects)
}

/// Services and slices; the hot Service last, where a list is dearest.
fn objects(shape: Shape) -> Vec<Value> {
    shape.entries().flat_map(|entry| entry.objects(shape.families())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::services::EXTRAS;

    const SHAPE: Shape = Shape { services: 300, endpoints_each: 3, dual: false };

    #[test]
    fn every_service_comes_with_its_slice_and_an_address_that_is_nobody_elses() {
        let objects = objects(SHAPE);
        assert_eq!(objects.len(), 2 * (300 + EXTRAS as usize));
        let mut addresses = BTreeSet::new();
        for pair in objects.chunks(2) {
            let [service, slice] = pair else { panic!("{pair:?}") };
            let owner = &slice["metadata"]["labels"]["kubernetes.io/service-name"];
            assert_eq!(owner, &service["metadata"]["name"]);
            assert_eq!(slice["metadata"]["namespace"], NAMESPACE);
            assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
            let address = service["spec"]["clusterIP"].as_str().unwrap().to_owned();
            assert!(addresses.insert(address), "{service}");
            // A real API server refuses two ports of one name.
            let ports = [&service["spec"]["ports"], &slice["ports"]].map(|ports| {
                let names = ports.as_array().unwrap().iter();
                names.map(|port| port["name"].to_string()).collect::<Vec<_>>()
            });
            let distinct: BTreeSet<&String> = ports[0].iter().collect();
            assert_eq!((distinct.len(), &ports[0]), (ports[0].len(), &ports[1]), "{service}");
        }
        // The range's own address, and that of the API server's Service.
        assert!(!addresses.contains("10.100.0.0") && !addresses.contains("10.100.0.1"));
    }

    #[test]
    fn the_agents_rights_are_those_of_the_manifest() {
        let kinds: Vec<String> = rights()
            .unwrap()
            .iter()
            .filter_map(|object| Some(object["kind"].as_str()?.to_owned()))
            .collect();
        assert!(RIGHTS.iter().all(|kind| kinds.iter().any(|found| found == kind)), "{kinds:?}");
        assert_eq!(kinds.len(), RIGHTS.len(), "nothing that would run");
    }
}
