//! The operator's commands. They read what is pinned, so they work when the agent is dead.

pub mod cleanup;
pub mod config;
mod devices;
pub mod flows;
pub mod services;
pub mod status;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use millrace_common::service::ServiceRow;

use crate::bpf::environment;
use crate::bpf::pins::Pins;
use crate::bpf::store::Store;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// The pins below the given directory, or below the mounted bpffs.
fn pins(bpffs: Option<&Path>) -> Result<Pins> {
    let pins = Pins::new(&environment::bpffs_to_read(bpffs)?);
    if !pins.root().exists() {
        bail!(
            "nothing is pinned at {}: no agent has run with this --bpffs on this node",
            pins.root().display()
        );
    }
    Ok(pins)
}

/// The maps in force.
fn store(pins: &Pins) -> Result<Store> {
    let directory: PathBuf = pins.maps();
    Store::open_as_is(&directory).with_context(|| {
        format!("open the maps in {} (did the agent ever become ready?)", directory.display())
    })
}

/// Whether a service port is of the Service that is called so: `NAME` or `NAMESPACE/NAME`.
fn is_named(row: &ServiceRow, wanted: &str) -> bool {
    match wanted.split_once('/') {
        Some((namespace, name)) => row.namespace() == namespace && row.name() == name,
        None => row.name() == wanted,
    }
}

/// A service port: `NAMESPACE/NAME`, and the port's name if it has one.
fn service_name(row: &ServiceRow) -> String {
    let (namespace, name) = (row.namespace(), row.name());
    match row.port_name() {
        "" => format!("{namespace}/{name}"),
        port => format!("{namespace}/{name}:{port}"),
    }
}

/// A table as our commands print it.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table
}

/// `millrace version`.
pub fn version(output: Output) {
    let version = env!("MILLRACE_VERSION");
    let abi = millrace_common::ABI_VERSION;
    match output {
        Output::Text => println!("millrace {version} (map ABI {abi})"),
        Output::Json => println!("{}", serde_json::json!({ "version": version, "mapAbi": abi })),
    }
}
