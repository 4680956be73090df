//! Reaching the API server: a kubeconfig file, an address, or the pod's service account.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::client::ClientBuilder;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

use crate::metrics::Requests;

/// Where kubelet puts a pod's credentials.
pub const SERVICE_ACCOUNT_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A TCP connection and its TLS handshake that take longer have failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach the API server.
#[derive(Clone, Debug)]
pub struct KubeConfig {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's URL. Without a kubeconfig the credentials are the service account's, where
    /// there is one; with a kubeconfig it takes the place of the server named there.
    pub api_server: Option<String>,
    /// This node's name in the API.
    pub node_name: String,
    /// Directory of the service account's `token` and `ca.crt`: [`SERVICE_ACCOUNT_DIR`].
    pub service_account: PathBuf,
    /// Where requests are counted; none: nowhere.
    pub requests: Option<Requests>,
}

impl KubeConfig {
    /// In a pod: everything from the environment.
    pub fn in_cluster(node_name: impl Into<String>) -> Self {
        Self {
            kubeconfig: None,
            api_server: None,
            node_name: node_name.into(),
            service_account: PathBuf::from(SERVICE_ACCOUNT_DIR),
            requests: None,
        }
    }
    /// A kubeconfig file.
    pub fn from_file(path: impl Into<PathBuf>, node_name: impl Into<String>) -> Self {
        Self { kubeconfig: Some(path.into()), ..Self::in_cluster(node_name) }
    }
    /// An API server's URL.
    pub fn from_url(url: impl Into<String>, node_name: impl Into<String>) -> Self {
        Self { api_server: Some(url.into()), ..Self::in_cluster(node_name) }
    }
}

/// A client for the API server that `config` names. It does not connect yet: an API server that is
/// down is a matter of the watches, which retry.
pub async fn client(config: &KubeConfig) -> Result<Client> {
    let mut settings = match (&config.kubeconfig, &config.api_server) {
        (Some(path), _) => from_kubeconfig(path).await?,
        (None, Some(_)) => from_service_account(&config.service_account),
        (None, None) => from_environment()?,
    };
    if let Some(url) = &config.api_server {
        settings.cluster_url = parse_url(url)?;
    }
    do_without_system_roots(&mut settings);
    settings.connect_timeout = Some(CONNECT_TIMEOUT);
    // The watch loop has its own timeouts, which know lists from watches, and its own back-off:
    // retries underneath it would multiply the load on a server that is already struggling.
    settings.read_timeout = None;
    settings.default_retry = false;
    let url = settings.cluster_url.clone();
    let builder = ClientBuilder::try_from(settings).with_context(|| {
        format!("set up the client for the API server {url}: check its CA, token and client key")
    })?;
    Ok(match &config.requests {
        Some(requests) => builder.with_layer(&requests.layer(host(&url))).build(),
        None => builder.build(),
    })
}

/// The server as client-go names it in metrics: address and port, if one is given.
fn host(url: &http::Uri) -> String {
    url.authority().map(ToString::to_string).unwrap_or_default()
}

async fn from_kubeconfig(path: &Path) -> Result<Config> {
    let shown = path.display();
    let file = Kubeconfig::read_from(path)
        .with_context(|| format!("read the kubeconfig {shown}: is it there and readable?"))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.with_context(|| {
        format!("use the kubeconfig {shown}: its current-context must name a cluster and a user")
    })
}

/// The service account's credentials, where there are any; the URL is filled in by the caller.
fn from_service_account(dir: &Path) -> Config {
    let mut config = Config::new(http::Uri::from_static("http://127.0.0.1"));
    // Both files are named, not read: kube reads them again when kubelet rotates them.
    let token = dir.join("token");
    if token.exists() {
        config.auth_info.token_file = Some(token.display().to_string());
    }
    let authority = dir.join("ca.crt");
    if authority.exists() {
        config.root_cert_file = Some(authority);
    }
    config
}

fn from_environment() -> Result<Config> {
    Config::incluster().with_context(|| {
        format!(
            "find the API server: no --kubeconfig and no --api-server was given, so this must be a \
             pod with KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT and {SERVICE_ACCOUNT_DIR}. \
             Give --api-server with an address that works before Services do (not a ClusterIP), \
             or --kubeconfig"
        )
    })
}

/// Where the system's certificate authorities have no say they need not be there: our image has
/// none. kube (5.0) loads them even where only `root_cert_file` counts or nobody is asked, unless
/// it is given a list; an empty one will do.
fn do_without_system_roots(config: &mut Config) {
    let is_plain = config.cluster_url.scheme_str() == Some("http");
    if is_plain || config.root_cert_file.is_some() || config.accept_invalid_certs {
        config.root_cert.get_or_insert_default();
    }
}

fn parse_url(url: &str) -> Result<http::Uri> {
    let parsed: http::Uri = url.parse().with_context(|| format!("parse --api-server {url:?}"))?;
    let known = matches!(parsed.scheme_str(), Some("http" | "https"));
    if !known || parsed.host().is_none() {
        bail!("--api-server {url:?} is not a URL: write https://ADDRESS:PORT");
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(config: &KubeConfig) -> String {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        match runtime.block_on(client(config)) {
            Ok(_) => panic!("{config:?} should not do"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let missing = failure(&KubeConfig::from_file("/nowhere/kubeconfig", "n1"));
        assert!(missing.contains("/nowhere/kubeconfig"), "{missing}");
        for url in ["10.0.0.1:6443", "ftp://10.0.0.1", "https://", "not a url"] {
            let text = failure(&KubeConfig::from_url(url, "n1"));
            assert!(text.contains(url) && text.contains("--api-server"), "{text}");
        }
        // Not in a pod here, whatever else the machine is.
        if std::env::var_os("KUBERNETES_SERVICE_HOST").is_none() {
            let text = failure(&KubeConfig::in_cluster("n1"));
            assert!(text.contains("--api-server") && text.contains("--kubeconfig"), "{text}");
        }
    }
}
