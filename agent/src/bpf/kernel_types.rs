//! What the kernel says of its own types (BTF, `Documentation/bpf/btf.rst`): as much as programs
//! need to see of a packet what `__sk_buff` does not show.
//!
//! aya reads the kernel's BTF too, but does not show a member's place, and other crates copy all of
//! it into tables of their own; here it is gone through twice where it lies.

use std::fs;

/// Where the kernel shows it.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// The function that shows a program its context as the kernel sees it. Linux 6.2.
const CAST: &str = "bpf_cast_to_kern_ctx";
/// A packet, as the kernel sees it.
const PACKET: &str = "sk_buff";
/// Its field that says what stands in the field of the transport checksum.
const STATE: &str = "ip_summed";
/// How many bits that has.
const STATE_BITS: u32 = 2;
/// How deep members may be in structures without a name.
const DEPTH_MAX: u32 = 8;

/// Where programs find what stands in the field of a packet's transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SumPlace {
    /// Number of the function `bpf_cast_to_kern_ctx`.
    pub cast: u32,
    /// Lowest bit of `sk_buff::ip_summed`, from the beginning of the structure.
    pub bit: u32,
}

impl SumPlace {
    /// In the kernel that runs; nothing if it does not say.
    pub fn of_this_kernel() -> Option<Self> {
        Self::find(&fs::read(KERNEL_BTF).ok()?)
    }

    /// By a kernel's BTF.
    fn find(btf: &[u8]) -> Option<Self> {
        let types = Types::read(btf)?;
        let (cast, _) = types.named(kind::FUNC, CAST)?;
        let (_, packet) = types.named(kind::STRUCT, PACKET)?;
        let bit = types.bits(packet, STATE, STATE_BITS, DEPTH_MAX)?;
        // One byte is read.
        let is_in_a_byte = bit % 8 + STATE_BITS <= 8;
        is_in_a_byte.then_some(Self { cast, bit })
    }
}

/// `BTF_KIND_*` (linux/btf.h).
mod kind {
    pub const INT: u32 = 1;
    pub const ARRAY: u32 = 3;
    pub const STRUCT: u32 = 4;
    pub const UNION: u32 = 5;
    pub const ENUM: u32 = 6;
    pub const FUNC: u32 = 12;
    pub const FUNC_PROTO: u32 = 13;
    pub const VAR: u32 = 14;
    pub const DATASEC: u32 = 15;
    pub const DECL_TAG: u32 = 17;
    pub const ENUM64: u32 = 19;
}

/// BTF, as it lies in memory.
struct Types<'a> {
    /// The records, one behind the other; the first has number 1.
    records: &'a [u8],
    strings: &'a [u8],
}

/// A record: `struct btf_type`, and what follows it.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Members, parameters, values.
    count: usize,
    /// Whether members say how many bits they have.
    has_bits: bool,
    rest: &'a [u8],
}

/// `struct btf_header`: magic number, version and flags, then lengths and offsets.
const MAGIC: u16 = 0xeb9f;
/// `struct btf_type`.
const TYPE_BYTES: usize = 12;
/// `struct btf_member`.
const MEMBER_BYTES: usize = 12;

impl<'a> Types<'a> {
    fn read(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(*btf.first_chunk()?);
        let [header, type_off, type_len, str_off, str_len] =
            [4, 8, 12, 16, 20].map(|at| word(btf, at).map(|word| word as usize));
        let part = |offset: usize, len: usize| {
            let start = header?.checked_add(offset)?;
            btf.get(start..start.checked_add(len)?)
        };
        let records = part(type_off?, type_len?)?;
        let strings = part(str_off?, str_len?)?;
        (magic == MAGIC).then_some(Self { records, strings })
    }

    /// All records in order; they end before one of a kind that is not known.
    fn all(&self) -> impl Iterator<Item = Type<'a>> + use<'a> {
        let mut left = self.records;
        std::iter::from_fn(move || {
            let (record, rest) = Type::read(left)?;
            left = rest;
            Some(record)
        })
    }

    /// The first record of that kind and name, and its number.
    fn named(&self, kind: u32, name: &str) -> Option<(u32, Type<'a>)> {
        let is_it = |record: &Type<'_>| record.kind == kind && self.is_named(record.name, name);
        (1..).zip(self.all()).find(|(_, record)| is_it(record))
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let text = self.strings.get(offset as usize..).unwrap_or_default();
        text.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Where a member of that many bits begins in a structure or union, in bits, be it in one
    /// without a name.
    fn bits(&self, record: Type<'a>, name: &str, bits: u32, depth: u32) -> Option<u32> {
        if !matches!(record.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        record.rest.chunks_exact(MEMBER_BYTES).take(record.count).find_map(|member| {
            let [called, of, place] = [0, 4, 8].map(|at| word(member, at));
            let (called, place) = (called?, place?);
            let (start, has) =
                if record.has_bits { (place & 0x00ff_ffff, place >> 24) } else { (place, 0) };
            if self.is_named(called, name) {
                return (has == bits).then_some(start);
            }
            if !self.is_named(called, "") || depth == 0 {
                return None;
            }
            let inner = self.all().nth((of? as usize).checked_sub(1)?)?;
            start.checked_add(self.bits(inner, name, bits, depth - 1)?)
        })
    }
}

impl<'a> Type<'a> {
    /// The first record, and what is behind it.
    fn read(records: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (name, info) = (word(records, 0)?, word(records, 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        let bytes = match kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => count * MEMBER_BYTES,
            kind::ENUM | kind::FUNC_PROTO => count * 8,
            // Pointers, typedefs, qualifiers, functions, floats, tags of types.
            2 | 7..=12 | 16 | 18 => 0,
            _ => return None,
        };
        let (rest, behind) = records.get(TYPE_BYTES..)?.split_at_checked(bytes)?;
        Some((Self { name, kind, count, has_bits: info >> 31 == 1, rest }, behind))
    }
}

/// A word of BTF: in the machine's byte order.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BTF of these records, whose words are given, and strings.
    fn btf(records: &[&[u32]], strings: &str) -> Vec<u8> {
        let records: Vec<u8> =
            records.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let header = [24, 0, records.len(), records.len(), strings.len()];
        let header = header.iter().flat_map(|&word| (word as u32).to_ne_bytes());
        let magic = MAGIC.to_ne_bytes().into_iter().chain([1, 0]);
        magic.chain(header).chain(records).chain(strings.bytes()).collect()
    }

    /// Offsets: `sk_buff` 1, `ip_summed` 9, `bpf_cast_to_kern_ctx` 19, `other` 40.
    const STRINGS: &str = "\0sk_buff\0ip_summed\0bpf_cast_to_kern_ctx\0other\0";

    const fn info(kind: u32, count: u32) -> u32 {
        kind << 24 | count
    }

    /// As the kernel has it: in a structure without a name, in a union without one.
    fn nested(bits: u32, start: u32) -> Vec<u8> {
        let field = bits << 24 | start;
        let named = 1 << 31 | info(kind::STRUCT, 2);
        btf(
            &[
                &[40, info(kind::INT, 0), 1, 8],
                &[0, named, 4, 40, 1, 0, 9, 1, field],
                &[0, info(kind::UNION, 1), 4, 0, 2, 0],
                &[40, info(kind::ENUM, 1), 4, 40, 0],
                &[1, info(kind::STRUCT, 2), 132, 40, 1, 0, 0, 3, 1024],
                &[40, info(kind::FUNC, 0), 1],
                &[19, info(kind::FUNC, 0), 1],
            ],
            STRINGS,
        )
    }

    #[test]
    fn the_field_is_found_in_structures_without_a_name() {
        assert_eq!(SumPlace::find(&nested(2, 5)), Some(SumPlace { cast: 7, bit: 1029 }));
    }

    #[test]
    fn what_is_not_as_expected_is_not_used() {
        // Another width; two bits of two bytes.
        assert_eq!(SumPlace::find(&nested(3, 5)), None);
        assert_eq!(SumPlace::find(&nested(2, 7)), None);
        // No function of that name.
        let strings = STRINGS.replace("bpf_cast", "bpf_cost");
        let end = nested(2, 5).len() - STRINGS.len();
        let renamed = [&nested(2, 5)[..end], strings.as_bytes()].concat();
        assert_eq!(SumPlace::find(&renamed), None);
    }

    #[test]
    fn a_kind_of_later_kernels_ends_the_search() {
        let unknown = [info(31, 0)];
        let records: [&[u32]; 2] = [&[40, unknown[0], 0], &[19, info(kind::FUNC, 0), 1]];
        assert_eq!(SumPlace::find(&btf(&records, STRINGS)), None);
    }

    #[test]
    fn a_structure_that_contains_itself_is_no_endless_search() {
        let records: [&[u32]; 2] =
            [&[1, info(kind::STRUCT, 1), 4, 0, 1, 0], &[19, info(kind::FUNC, 0), 1]];
        assert_eq!(SumPlace::find(&btf(&records, STRINGS)), None);
    }

    #[test]
    fn every_cut_is_survived() {
        let whole = nested(2, 5);
        for end in 0..whole.len() {
            assert_eq!(SumPlace::find(&whole[..end]), None, "{end} bytes");
        }
    }

    #[test]
    fn this_kernel_is_understood_if_it_shows_its_types() {
        let Ok(btf) = fs::read(KERNEL_BTF) else { return };
        let Some((_, packet)) =
            Types::read(&btf).and_then(|types| types.named(kind::STRUCT, PACKET))
        else {
            panic!("no {PACKET} in {KERNEL_BTF}")
        };
        assert!(packet.count > 10, "{}", packet.count);
    }
}
