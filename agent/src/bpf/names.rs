//! The names of service ports, in the `services` map: those of neighbouring ids in one row.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use millrace_common::service::{PARTS_MAX, ServiceBlock, ServiceKey, ServicePart, ServiceRow};

use super::map::{Map, MapError};

/// The map. One writer changes its rows, each as a whole.
pub(super) struct NameStore(Map);

impl NameStore {
    /// The one pinned in `directory`.
    pub(super) fn open(directory: &Path) -> Result<Self, MapError> {
        Map::open(directory, "services").map(Self)
    }

    /// Name service ports.
    pub(super) fn put<'a>(
        &self,
        names: impl IntoIterator<Item = (u32, &'a ServiceRow)>,
    ) -> Result<(), MapError> {
        let mut blocks = BTreeMap::new();
        for (id, row) in names {
            for part in 0..row.parts() {
                let block = match blocks.entry(ServiceKey::of(id, part)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let known = self.block(new.key())?;
                        new.insert(known)
                    }
                };
                *block.part_mut(id) = row.part(part);
            }
        }
        self.0.put(&blocks.into_iter().collect::<Vec<_>>())
    }

    /// Take a name back. The first part goes last: without it, what an interrupted writer left
    /// would not be found.
    pub(super) fn delete(&self, id: u32) -> Result<(), MapError> {
        let parts = self.get(id)?.map_or(PARTS_MAX, |row| row.parts());
        for part in (0..parts).rev() {
            let key = ServiceKey::of(id, part);
            let mut block = self.block(&key)?;
            *block.part_mut(id) = ServicePart::NONE;
            if block == ServiceBlock::EMPTY {
                self.0.delete(&key)?;
            } else {
                self.0.put(&[(key, block)])?;
            }
        }
        Ok(())
    }

    /// A row as it is; there need be none.
    fn block(&self, key: &ServiceKey) -> Result<ServiceBlock, MapError> {
        Ok(self.0.get(key)?.unwrap_or(ServiceBlock::EMPTY))
    }

    /// The name of one.
    pub(super) fn get(&self, id: u32) -> Result<Option<ServiceRow>, MapError> {
        let mut row = ServiceRow::EMPTY;
        let Some(first) = self.part(id, 0)? else { return Ok(None) };
        row.set_part(0, &first);
        for part in 1..row.parts() {
            if let Some(rest) = self.part(id, part)? {
                row.set_part(part, &rest);
            }
        }
        Ok(Some(row))
    }

    fn part(&self, id: u32, part: u32) -> Result<Option<ServicePart>, MapError> {
        let part = self.block(&ServiceKey::of(id, part))?.part(id);
        Ok(Some(part).filter(|part| *part != ServicePart::NONE))
    }

    /// All of them, by id.
    pub(super) fn all(&self) -> Result<Vec<(u32, ServiceRow)>, MapError> {
        let mut rows = BTreeMap::new();
        self.0.scan(|key: ServiceKey, block: ServiceBlock| {
            let parts = key.ids().map(|id| (id, block.part(id)));
            for (id, part) in parts.filter(|(_, part)| *part != ServicePart::NONE) {
                rows.entry(id).or_insert(ServiceRow::EMPTY).set_part(key.part, &part);
            }
        })?;
        Ok(rows.into_iter().collect())
    }
}
