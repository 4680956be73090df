//! Watches a Kubernetes API.
