//! Opening the source that the configuration names.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::sync::mpsc::Sender;

use super::kube::KubeConfig;
use super::{Event, files, kube};
use crate::config::Source;
use crate::events::Sink;

/// A source that can be followed.
pub enum Opened {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API.
    Kubernetes(Box<::kube::Client>),
}

impl Opened {
    /// See that the source can be reached at all, before anything in the kernel is touched. (An API
    /// server that does not answer can be: it will.)
    pub async fn open(source: &Source, node_name: &str) -> Result<Self> {
        match source {
            Source::Manifests(directory) => {
                std::fs::read_dir(directory).with_context(|| {
                    format!("--manifests {}: create it or name another", directory.display())
                })?;
                Ok(Self::Manifests(directory.clone()))
            }
            Source::Kubernetes { kubeconfig, api_server } => {
                let access = KubeConfig {
                    kubeconfig: kubeconfig.clone(),
                    api_server: api_server.clone(),
                    ..KubeConfig::in_cluster(node_name)
                };
                Ok(Self::Kubernetes(Box::new(kube::client(&access).await?)))
            }
        }
    }

    /// Where Events about its objects go.
    pub fn sink(&self) -> Sink {
        match self {
            Self::Manifests(_) => Sink::Log,
            Self::Kubernetes(client) => Sink::Api(client.as_ref().clone()),
        }
    }

    /// Follow it until nobody listens.
    pub async fn watch(self, node_name: String, events: Sender<Event>) -> Result<()> {
        match self {
            Self::Manifests(directory) => files::watch(directory, events).await,
            Self::Kubernetes(client) => {
                kube::watch(*client, &node_name, events).await;
                Ok(())
            }
        }
    }
}
