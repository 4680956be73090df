//! Watches a directory of manifests.
