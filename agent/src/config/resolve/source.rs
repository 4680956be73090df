//! Where Services come from, and how the API server is reached before its ClusterIP works.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{kp, own};
use crate::config::catalogue::Effect;
use crate::config::effective::Source;
use crate::config::merge::{Origin, Settings};

/// What kubelet gives to pods: the API server's address, mostly a ClusterIP.
pub const IN_CLUSTER: [&str; 2] = ["KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"];

/// The source, and which way to it won.
pub(super) fn source(
    s: &mut Settings,
    environment: &BTreeMap<String, String>,
) -> (Option<Source>, String) {
    let manifests = own("manifests");
    let others = [kp("clientConnection.kubeconfig"), own("apiServer")];
    let api =
        others.map(|key| (key, if s.text(key).is_empty() { 0 } else { s.origin(key).rank() }));
    let strongest = api.map(|(_, rank)| rank).into_iter().max().unwrap_or(0);
    let directory = s.text(manifests).to_owned();
    let rank = if directory.is_empty() { 0 } else { s.origin(manifests).rank() };
    if rank == 0 || rank < strongest {
        if rank > 0 {
            s.remark(manifests, Effect::Ignored, "an API server is named by stronger means");
        }
        return api_server(s, environment);
    }
    for (key, other) in api.into_iter().filter(|(_, other)| *other > 0) {
        // A KubeProxyConfiguration always names a kubeconfig: that is no contradiction.
        let is_theirs = matches!(s.origin(key), Origin::File(_)) && key == others[0];
        if other == rank && !is_theirs {
            let message = "give either a directory of manifests or an API server, not both";
            s.error(manifests, message);
            return (None, String::new());
        }
        s.remark(key, Effect::Ignored, "Services come from manifests");
    }
    let chosen = format!("manifests in {directory} ({})", s.place(manifests));
    (Some(Source::Manifests(PathBuf::from(directory))), chosen)
}

/// Flag, environment, kubeconfig, the pod's environment: in that order.
fn api_server(
    s: &mut Settings,
    environment: &BTreeMap<String, String>,
) -> (Option<Source>, String) {
    let (kubeconfig, server) = (kp("clientConnection.kubeconfig"), own("apiServer"));
    let path = Some(s.text(kubeconfig).to_owned()).filter(|path| !path.is_empty());
    let mut url = Some(s.text(server).to_owned()).filter(|url| !url.is_empty());
    let outranked = path.is_some() && s.origin(kubeconfig).rank() > s.origin(server).rank();
    if url.is_some() && outranked && matches!(s.origin(kubeconfig), Origin::Flag(_)) {
        let here = format!("{} is stronger: its server counts", s.place(kubeconfig));
        s.remark(server, Effect::Ignored, here);
        url = None;
    }
    if let Some(url) = &url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        s.error(server, format!("{url:?} is not a URL: write https://ADDRESS:PORT"));
        return (None, String::new());
    }
    let chosen = match (&url, &path) {
        (Some(url), Some(path)) => {
            let (server, file) = (s.place(server), s.place(kubeconfig));
            format!("{url} ({server}), with the credentials of {path} ({file})")
        }
        (Some(url), None) => {
            format!("{url} ({}), with the pod's credentials if there are any", s.place(server))
        }
        (None, Some(path)) => format!("the server of {path} ({})", s.place(kubeconfig)),
        (None, None) => in_cluster(s, environment),
    };
    let kubeconfig = path.map(PathBuf::from);
    (Some(Source::Kubernetes { kubeconfig, api_server: url }), chosen)
}

fn in_cluster(s: &mut Settings, environment: &BTreeMap<String, String>) -> String {
    let [host, port] = IN_CLUSTER.map(|name| environment.get(name).cloned().unwrap_or_default());
    if host.is_empty() {
        return "the pod's environment (in-cluster), which this is not".into();
    }
    let message = format!(
        "the API server is reached at {host}, as the pod's environment says; if that is a \
         ClusterIP, a node that starts anew cannot reach it before Services work: set \
         MILLRACE_API_SERVER to an address of its own"
    );
    s.findings.note("apiServer", message);
    format!("https://{host}:{port} (in-cluster: {})", IN_CLUSTER[0])
}
