//! The rows that say what the node and its devices are: maps `node` and `devices`.

use std::collections::BTreeMap;
use std::path::Path;

use millrace_common::node::{DeviceRow, NodeRow};

use super::map::{Map, MapError};

/// The single row of the `node` map.
const NODE_KEY: u32 = 0;

/// The two maps.
pub struct NodeMaps {
    node: Map,
    devices: Map,
}

impl NodeMaps {
    /// Open the maps pinned in `directory`.
    pub fn open(directory: &Path) -> Result<Self, MapError> {
        let open = |name| Map::open(directory, name);
        Ok(Self { node: open("node")?, devices: open("devices")? })
    }

    /// What the programs know of the node; all zero in a new map.
    pub fn node(&self) -> Result<Option<NodeRow>, MapError> {
        self.node.get(&NODE_KEY)
    }

    /// Tell the programs about the node.
    pub fn set_node(&self, row: &NodeRow) -> Result<(), MapError> {
        self.node.put(&[(NODE_KEY, *row)])
    }

    /// Every device's row, by interface index.
    pub fn devices(&self) -> Result<BTreeMap<u32, DeviceRow>, MapError> {
        Ok(self.devices.read(|_: &u32, _: &DeviceRow| true)?.into_iter().collect())
    }

    /// Write a device's row.
    pub fn set_device(&self, index: u32, row: &DeviceRow) -> Result<(), MapError> {
        self.devices.put(&[(index, *row)])
    }

    /// Delete a device's row.
    pub fn delete_device(&self, index: u32) -> Result<(), MapError> {
        self.devices.delete(&index)
    }
}
