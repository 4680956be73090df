//! What tools need to read the maps when the agent is dead: names of service ports, and the size of
//! the agent's own report.

use crate::row::Row;

/// Longest Kubernetes namespace (a DNS label, RFC 1123).
pub const NAMESPACE_BYTES: usize = 63;
/// Longest Service name (a DNS label, RFC 1035).
pub const NAME_BYTES: usize = 63;
/// Longest port name (a DNS label, as Services allow).
pub const PORT_NAME_BYTES: usize = 63;

/// Size of the single row of the `report` map: JSON text, zero-padded.
pub const REPORT_BYTES: usize = 65_536;

/// Bytes of one part of a service port's row. Nearly all names fit into one.
pub const PART_BYTES: usize = 72;
/// Service ids whose parts are together in one row of the `services` map: with its key that is what
/// fits into the 512 bytes which the kernel gives such a row. To insert a row takes the kernel
/// longer than to copy one.
pub const IDS_IN_BLOCK: u32 = 6;
/// Longest text of the three names.
const TEXT_BYTES: usize = NAMESPACE_BYTES + NAME_BYTES + PORT_NAME_BYTES;
/// What stands before the text: the lengths and the protocol.
const HEAD_BYTES: usize = 4;
/// Parts that the longest names take.
pub const PARTS_MAX: u32 = (HEAD_BYTES + TEXT_BYTES).div_ceil(PART_BYTES) as u32;

/// Key of the `services` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServiceKey {
    /// The service id, divided by [`IDS_IN_BLOCK`].
    pub block: u32,
    /// Which part of the rows of these ids, from 0. There is no part without those before it.
    pub part: u32,
}

/// Part of a [`ServiceRow`]'s bytes, of which there are as many as it needs. All zero: there is
/// none.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServicePart(pub [u8; PART_BYTES]);

/// Value of the `services` map: the same part of the rows of neighbouring ids.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceBlock([ServicePart; IDS_IN_BLOCK as usize]);

impl ServiceKey {
    /// Where a part of an id's row is.
    pub const fn of(id: u32, part: u32) -> Self {
        Self { block: id / IDS_IN_BLOCK, part }
    }

    /// The ids that share it.
    pub const fn ids(self) -> core::ops::Range<u32> {
        let first = self.block.saturating_mul(IDS_IN_BLOCK);
        first..first.saturating_add(IDS_IN_BLOCK)
    }

    /// Rows of the map that are enough for so many ids, however long their names are.
    pub const fn rows_for(ids: u32) -> u32 {
        ids.div_ceil(IDS_IN_BLOCK).saturating_mul(PARTS_MAX)
    }
}

impl ServicePart {
    /// No part.
    pub const NONE: Self = Self([0; PART_BYTES]);
}

impl ServiceBlock {
    /// Of none of them.
    pub const EMPTY: Self = Self([ServicePart::NONE; IDS_IN_BLOCK as usize]);

    /// An id's part.
    pub const fn part(&self, id: u32) -> ServicePart {
        self.0[(id % IDS_IN_BLOCK) as usize]
    }

    /// As [`part`](Self::part), to be written.
    pub const fn part_mut(&mut self, id: u32) -> &mut ServicePart {
        &mut self.0[(id % IDS_IN_BLOCK) as usize]
    }
}

// SAFETY: two 32-bit words.
unsafe impl Row for ServiceKey {}
// SAFETY: bytes only.
unsafe impl Row for ServicePart {}
// SAFETY: parts, which have no padding.
unsafe impl Row for ServiceBlock {}

/// What service id N means. A service is one port of a Kubernetes Service, the unit of load
/// balancing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ServiceRow {
    /// Lengths of namespace, name and port name, the protocol, and the three names.
    bytes: [u8; HEAD_BYTES + TEXT_BYTES],
}

impl ServiceRow {
    /// Nothing yet: parts are to be [added](Self::set_part).
    pub const EMPTY: Self = Self { bytes: [0; HEAD_BYTES + TEXT_BYTES] };

    /// The row of a service port, or nothing when a name is longer than Kubernetes allows.
    pub fn new(namespace: &str, name: &str, port_name: &str, protocol: u8) -> Option<Self> {
        let mut row = Self::EMPTY;
        let names =
            [(namespace, NAMESPACE_BYTES), (name, NAME_BYTES), (port_name, PORT_NAME_BYTES)];
        let mut end = HEAD_BYTES;
        for (place, (text, longest)) in names.into_iter().enumerate() {
            if text.len() > longest {
                return None;
            }
            row.bytes[place] = text.len() as u8;
            row.bytes[end..end + text.len()].copy_from_slice(text.as_bytes());
            end += text.len();
        }
        row.bytes[3] = protocol;
        Some(row)
    }

    /// Parts that it takes.
    pub fn parts(&self) -> u32 {
        let text: usize = self.bytes[..3].iter().map(|length| usize::from(*length)).sum();
        ((HEAD_BYTES + text).div_ceil(PART_BYTES) as u32).min(PARTS_MAX)
    }

    /// One of them.
    pub fn part(&self, part: u32) -> ServicePart {
        let mut bytes = [0; PART_BYTES];
        let rest = self.bytes.get(part as usize * PART_BYTES..).unwrap_or_default();
        let length = rest.len().min(PART_BYTES);
        bytes[..length].copy_from_slice(&rest[..length]);
        ServicePart(bytes)
    }

    /// Read one of them back.
    pub fn set_part(&mut self, part: u32, row: &ServicePart) {
        let rest = self.bytes.get_mut(part as usize * PART_BYTES..).unwrap_or_default();
        let length = rest.len().min(PART_BYTES);
        rest[..length].copy_from_slice(&row.0[..length]);
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        self.bytes[3]
    }
    /// Whether it has a namespace, readable or not.
    pub const fn has_namespace(&self) -> bool {
        self.bytes[0] != 0
    }
    /// The namespace; empty if the row is damaged.
    pub fn namespace(&self) -> &str {
        self.text(0)
    }
    /// The Service's name; empty if the row is damaged.
    pub fn name(&self) -> &str {
        self.text(1)
    }
    /// The port's name; most often empty.
    pub fn port_name(&self) -> &str {
        self.text(2)
    }

    /// One of the names; empty if any of its parts is missing.
    fn text(&self, place: usize) -> &str {
        let length = |place: usize| usize::from(self.bytes[place]);
        let begin = HEAD_BYTES + (0..place).map(length).sum::<usize>();
        let bytes = self.bytes.get(begin..begin + length(place)).unwrap_or_default();
        let text = core::str::from_utf8(bytes).unwrap_or_default();
        if text.contains('\0') { "" } else { text }
    }
}

impl core::fmt::Debug for ServiceRow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace(), self.name(), self.port_name())
    }
}

const _LAYOUT: () = {
    assert!(size_of::<ServiceKey>() == 8 && size_of::<ServicePart>() == PART_BYTES);
    assert!(size_of::<ServiceBlock>() == IDS_IN_BLOCK as usize * PART_BYTES);
    assert!(NAMESPACE_BYTES < 256 && NAME_BYTES < 256 && PORT_NAME_BYTES < 256);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(row: &ServiceRow, parts: core::ops::Range<u32>) -> ServiceRow {
        let mut back = ServiceRow::EMPTY;
        parts.rev().for_each(|part| back.set_part(part, &row.part(part)));
        back
    }

    #[test]
    fn names_come_back_and_overlong_ones_are_refused() {
        let row = ServiceRow::new("kube-system", "kube-dns", "dns-tcp", 6).unwrap();
        assert_eq!(row.namespace(), "kube-system");
        assert_eq!(row.name(), "kube-dns");
        assert_eq!(row.port_name(), "dns-tcp");
        assert_eq!((row.protocol(), row.parts()), (6, 1));
        assert_eq!(read_back(&row, 0..1), row);
        assert!(ServiceRow::new("ns", &"x".repeat(64), "", 6).is_none());
    }

    extern crate alloc;
    #[test]
    fn the_longest_names_come_back_in_parts() {
        let [a, b, c] = ["a", "b", "c"].map(|letter| letter.repeat(63));
        let row = ServiceRow::new(&a, &b, &c, 17).unwrap();
        assert_eq!(row.parts(), PARTS_MAX);
        let back = read_back(&row, 0..PARTS_MAX);
        assert_eq!((back.namespace(), back.name(), back.port_name()), (&*a, &*b, &*c));
        let one = ServiceRow::new(&a[..20], &b[..48], "", 17).unwrap();
        let two = ServiceRow::new(&a[..20], &b[..49], "", 17).unwrap();
        assert_eq!((one.parts(), two.parts()), (1, 2));
    }

    #[test]
    fn every_id_has_a_place_of_its_own() {
        let places = (0..3 * IDS_IN_BLOCK).map(|id| {
            let key = ServiceKey::of(id, 0);
            assert!(key.ids().contains(&id) && key.block < ServiceKey::rows_for(id + 1));
            let mut block = ServiceBlock::EMPTY;
            block.part_mut(id).0[0] = 1;
            let found = key.ids().filter(|other| block.part(*other) != ServicePart::NONE);
            assert!(found.eq([id]));
            (key.block, key.ids().position(|other| other == id))
        });
        let places: alloc::collections::BTreeSet<_> = places.collect();
        assert_eq!(places.len(), 3 * IDS_IN_BLOCK as usize);
    }

    #[test]
    fn a_damaged_row_reads_as_empty() {
        let [a, b] = ["a", "b"].map(|letter| letter.repeat(63));
        let row = ServiceRow::new(&a, &b, "", 6).unwrap();
        let first_only = read_back(&row, 0..1);
        assert_eq!((first_only.namespace(), first_only.name()), (&*a, ""));
        let mut without_first = ServiceRow::EMPTY;
        without_first.set_part(1, &row.part(1));
        assert_eq!((without_first.namespace(), without_first.name()), ("", ""));
        assert!(first_only.has_namespace() && !without_first.has_namespace());
        let mut odd = row;
        odd.set_part(0, &ServicePart([255; PART_BYTES]));
        assert_eq!((odd.name(), odd.port_name(), odd.parts()), ("", "", PARTS_MAX));
    }
}
