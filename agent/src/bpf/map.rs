//! One pinned map: rows in and out, in batches where the kernel has them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use millrace_common::backend::{Backend, BackendPair, InPair};
use millrace_common::row::{Pair, Row};
use thiserror::Error;

use super::sys;
use super::window::Window;

/// Rows that one system call writes or reads, at most.
const BATCH_ROWS: usize = 4096;
/// Rows of an array that are worth mapping it.
const MAPPED_ROWS: usize = 256;
/// Rows between two that are written, on average, beyond which they are not.
const SCATTERED: usize = 64;
/// How far a read's buffer may grow for a crowded hash bucket, in rows.
const BATCH_ROWS_MAX: usize = 1 << 20;

/// A map operation that failed.
#[derive(Debug, Error)]
#[error("{act} map {map}: {error}")]
pub struct MapError {
    act: &'static str,
    map: &'static str,
    error: io::Error,
}

/// A map by name.
pub(super) struct Map {
    name: &'static str,
    pub(super) fd: OwnedFd,
}

impl Map {
    pub(super) fn open(directory: &Path, name: &'static str) -> Result<Self, MapError> {
        let fd = sys::obj_get(&directory.join(name)).map_err(|error| MapError {
            act: "open",
            map: name,
            error,
        })?;
        Ok(Self { name, fd })
    }

    pub(super) fn error(&self, act: &'static str) -> impl FnOnce(io::Error) -> MapError {
        let map = self.name;
        move |error| MapError { act, map, error }
    }

    /// Write rows, [`BATCH_ROWS`] at a time.
    pub(super) fn put<K: Row, V: Row>(&self, rows: &[(K, V)]) -> Result<(), MapError> {
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for chunk in rows.chunks(BATCH_ROWS) {
            if let [(key, value)] = chunk {
                sys::map_update(self.fd.as_fd(), key.as_bytes(), value.as_bytes())
                    .map_err(self.error("write"))?;
                continue;
            }
            keys.clear();
            values.clear();
            for (key, value) in chunk {
                keys.extend_from_slice(key.as_bytes());
                values.extend_from_slice(value.as_bytes());
            }
            let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            sys::map_update_batch(self.fd.as_fd(), &keys, &values, count)
                .map_err(self.error("write"))?;
        }
        Ok(())
    }

    /// Write rows of an array that can be mapped.
    pub(super) fn put_array<V: Row>(&self, rows: &[(u32, V)]) -> Result<(), MapError> {
        let indices = || rows.iter().map(|(index, _)| *index);
        let (Some(first), Some(last)) = (indices().min(), indices().max()) else { return Ok(()) };
        let Some(window) = self.window::<V>(rows.len(), first, last) else {
            return self.put(rows);
        };
        rows.iter().for_each(|(index, row)| window.write(*index, row));
        Ok(())
    }

    /// Write places of an array that can be mapped and has two in each row. The other place of a
    /// row is written as it is: nobody else writes there.
    pub(super) fn put_pairs<V: Row>(&self, places: &[(u32, V)]) -> Result<(), MapError> {
        let rows = || places.iter().map(|(place, _)| Pair::<V>::row_of(*place));
        let (Some(first), Some(last)) = (rows().min(), rows().max()) else { return Ok(()) };
        if let Some(window) = self.window::<Pair<V>>(places.len(), first, last) {
            for (place, value) in places {
                let index = Pair::<V>::row_of(*place);
                let mut row = window.read(index);
                *row.get_mut(*place) = *value;
                window.write(index, &row);
            }
            return Ok(());
        }
        let mut rows: BTreeMap<u32, Pair<V>> = BTreeMap::new();
        for (place, value) in places {
            let index = Pair::<V>::row_of(*place);
            let row = match rows.entry(index) {
                Entry::Occupied(row) => row.into_mut(),
                Entry::Vacant(row) => row.insert(self.get(&index)?.unwrap_or(Pair([*value; 2]))),
            };
            *row.get_mut(*place) = *value;
        }
        self.put(&rows.into_iter().collect::<Vec<_>>())
    }

    /// Rows of an array as memory, if so many of them are to be written and that is cheaper.
    fn window<V: Row>(&self, count: usize, first: u32, last: u32) -> Option<Window<V>> {
        // Scattered ones are cheaper one by one.
        let pays = count >= MAPPED_ROWS && (last - first) as usize / count <= SCATTERED;
        // Slower is better than not at all.
        pays.then(|| Window::writable(&self.fd, first, last).ok()).flatten()
    }

    /// The backend of that id, in a map of them; nothing: there is no such place.
    pub(super) fn backend<A: InPair>(&self, id: u32) -> Result<Option<Backend<A>>, MapError> {
        let pair = self.get(&BackendPair::row_of(id))?;
        Ok(pair.map(|pair| A::of(&pair, id)))
    }

    /// Show every row of an array that can be mapped.
    pub(super) fn scan_array<V: Row>(&self, mut show: impl FnMut(u32, V)) -> Result<(), MapError> {
        let Some(last) = self.size()?.checked_sub(1) else { return Ok(()) };
        // An earlier version's cannot be mapped.
        let Ok(window) = Window::<V>::readable(&self.fd, 0, last) else { return self.scan(show) };
        (0..=last).for_each(|index| show(index, window.read(index)));
        Ok(())
    }

    /// Every row that `wanted` wants, of an array that can be mapped.
    pub(super) fn read_array<V: Row>(
        &self,
        wanted: impl Fn(&V) -> bool,
    ) -> Result<Vec<(u32, V)>, MapError> {
        let mut rows = Vec::new();
        self.scan_array(|index, row| {
            if wanted(&row) {
                rows.push((index, row));
            }
        })?;
        Ok(rows)
    }

    /// Write rows one by one: tries took no batches before Linux 5.18.
    pub(super) fn put_each<K: Row, V: Row>(&self, rows: &[(K, V)]) -> Result<(), MapError> {
        rows.iter().try_for_each(|row| self.put(std::slice::from_ref(row)))
    }

    pub(super) fn delete<K: Row>(&self, key: &K) -> Result<(), MapError> {
        sys::map_delete(self.fd.as_fd(), key.as_bytes())
            .map(drop)
            .map_err(self.error("delete from"))
    }

    /// One row; nothing: there is no such row.
    pub(super) fn get<K: Row, V: Row>(&self, key: &K) -> Result<Option<V>, MapError> {
        let mut value = vec![0; size_of::<V>()];
        let found = sys::map_lookup(self.fd.as_fd(), key.as_bytes(), &mut value)
            .map_err(self.error("read"))?;
        Ok(V::from_bytes(&value).filter(|_| found))
    }

    /// Every row that `wanted` wants.
    pub(super) fn read<K: Row, V: Row>(
        &self,
        wanted: impl Fn(&K, &V) -> bool,
    ) -> Result<Vec<(K, V)>, MapError> {
        let mut rows = Vec::new();
        self.scan(|key, value| {
            if wanted(&key, &value) {
                rows.push((key, value));
            }
        })?;
        Ok(rows)
    }

    /// Every key of a map that may not read in batches.
    pub(super) fn keys<K: Row + Ord>(&self) -> Result<Vec<K>, MapError> {
        let mut keys = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        let mut next = vec![0; size_of::<K>()];
        while sys::map_next_key(self.fd.as_fd(), last.as_deref(), &mut next)
            .map_err(self.error("read"))?
        {
            keys.extend(K::from_bytes(&next));
            last = Some(next.clone());
        }
        // When a writer takes the last key away, the kernel begins anew.
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// Show every row.
    pub(super) fn scan<K: Row, V: Row>(&self, mut show: impl FnMut(K, V)) -> Result<(), MapError> {
        let mut cursor = Cursor::default();
        while !self.step(&mut cursor, &mut show)? {}
        Ok(())
    }

    /// Show the next rows, some [`BATCH_ROWS`] of them, and move the cursor. True: these were the
    /// last ones.
    pub(super) fn step<K: Row, V: Row>(
        &self,
        cursor: &mut Cursor,
        mut show: impl FnMut(K, V),
    ) -> Result<bool, MapError> {
        let Cursor { position, keys, values, rows } = cursor;
        let step = loop {
            keys.resize(*rows * size_of::<K>(), 0);
            values.resize(*rows * size_of::<V>(), 0);
            let count = u32::try_from(*rows).unwrap_or(u32::MAX);
            let mut next = *position;
            match sys::map_lookup_batch(self.fd.as_fd(), &mut next, keys, values, count) {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC) && *rows < BATCH_ROWS_MAX =>
                {
                    *rows *= 2;
                }
                other => {
                    *position = next;
                    break other.map_err(self.error("read"))?;
                }
            }
        };
        let pairs = keys.chunks(size_of::<K>()).zip(values.chunks(size_of::<V>()));
        for (key, value) in pairs.take(step.count as usize) {
            if let (Some(key), Some(value)) = (K::from_bytes(key), V::from_bytes(value)) {
                show(key, value);
            }
        }
        if step.done {
            *cursor = Cursor::default();
        }
        Ok(step.done)
    }

    /// How many rows it holds.
    pub(super) fn size(&self) -> Result<u32, MapError> {
        let shape = sys::map_shape(self.fd.as_fd()).map_err(self.error("look at"))?;
        Ok(shape.max_entries)
    }
}

/// Where the reading of a map stands. A hash map may change meanwhile: rows that stay are shown.
#[derive(Debug)]
pub struct Cursor {
    position: Option<u32>,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Rows the buffers have room for.
    rows: usize,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { position: None, keys: Vec::new(), values: Vec::new(), rows: BATCH_ROWS }
    }
}
