//! No chain of calls needs more stack than a program has, as the strictest kernels count it: what
//! only they refuse is seen here, and by name.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::OBJECT;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind};

/// `MAX_BPF_STACK`: bytes that a program and all it calls have.
const STACK_BYTES: u32 = 512;
/// What kernels round a function's part up to, at most, in bytes (later ones: 16).
const ROUNDED_TO: u32 = 32;

/// Bytes of an instruction.
const INSTRUCTION: usize = 8;
/// The register that points to the end of the function's part.
const FRAME_POINTER: u8 = 10;
/// Opcodes (RFC 9669): call, 64-bit move of a register, 64-bit addition of a number.
const CALL: u8 = 0x85;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// Source register of a call of a function of the program's own.
const OWN: u8 = 1;

struct Function {
    name: String,
    /// Bytes it needs for itself.
    bytes: u32,
    /// Whom it calls.
    calls: Vec<usize>,
}

struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    fn of(bytes: &[u8]) -> Self {
        Self {
            opcode: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            number: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    /// How far below the frame pointer it reaches, if it uses that: by reading (class 1), by
    /// writing (2, 3), or by making a pointer of the copy that the instruction before it made.
    fn depth(&self, before: Option<&Self>) -> i32 {
        let base = match self.opcode & 7 {
            1 => self.source,
            2 | 3 => self.destination,
            _ => {
                let copied = before.is_some_and(|before| {
                    before.opcode == MOVE
                        && before.source == FRAME_POINTER
                        && before.destination == self.destination
                });
                return if copied && self.opcode == ADD { -self.number } else { 0 };
            }
        };
        if base == FRAME_POINTER { -i32::from(self.offset) } else { 0 }
    }
}

fn functions() -> Result<Vec<Function>> {
    let file = ElfFile64::<object::Endianness>::parse(OBJECT).context("parse the BPF object")?;
    let symbols: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .collect();
    let place = |section, address| (section, address);
    let by_place: HashMap<_, usize> = symbols
        .iter()
        .enumerate()
        .filter_map(|(at, symbol)| Some((place(symbol.section_index()?, symbol.address()), at)))
        .collect();
    let mut functions = Vec::new();
    for symbol in &symbols {
        let index = symbol.section_index().context("a function is nowhere")?;
        let section = file.section_by_index(index)?;
        let targets: HashMap<u64, _> = section.relocations().collect();
        let (from, to) = (symbol.address() as usize, (symbol.address() + symbol.size()) as usize);
        let code = section.data()?.get(from..to).context("a function is cut off")?;
        let mut function =
            Function { name: symbol.name()?.to_owned(), bytes: 0, calls: Vec::new() };
        let mut before: Option<Instruction> = None;
        for (at, bytes) in code.chunks_exact(INSTRUCTION).enumerate() {
            let instruction = Instruction::of(bytes);
            let depth = instruction.depth(before.as_ref());
            function.bytes = function.bytes.max(u32::try_from(depth).unwrap_or(0));
            if instruction.opcode == CALL && instruction.source == OWN {
                let here = symbol.address() + (at * INSTRUCTION) as u64;
                // In instructions, from the next one; or from the symbol that it is related to.
                let distance = (i64::from(instruction.number) + 1) * INSTRUCTION as i64;
                let (section, base) = match targets.get(&here).map(|target| target.target()) {
                    None => (index, here),
                    Some(RelocationTarget::Symbol(of)) => {
                        let of = file.symbol_by_index(of)?;
                        let section = of.section_index().context("a call leads nowhere")?;
                        // The number counts from a section's begin, not from a function.
                        let is_function = of.kind() == SymbolKind::Text;
                        let back = if is_function { distance } else { 0 };
                        (section, of.address().wrapping_add_signed(-back))
                    }
                    Some(other) => anyhow::bail!("a call leads to {other:?}"),
                };
                let called = by_place.get(&place(section, base.wrapping_add_signed(distance)));
                function.calls.push(*called.context("a call leads to no function")?);
            }
            before = Some(instruction);
        }
        functions.push(function);
    }
    Ok(functions)
}

/// The chain of calls from a function that needs most, and how much.
fn deepest(functions: &[Function], at: usize) -> (u32, Vec<usize>) {
    let below = functions[at].calls.iter().map(|called| deepest(functions, *called));
    let (bytes, mut chain) = below.max().unwrap_or_default();
    chain.insert(0, at);
    (bytes + functions[at].bytes.max(1).next_multiple_of(ROUNDED_TO), chain)
}

#[test]
fn every_chain_of_calls_has_room_on_the_stack() -> Result<()> {
    let functions = functions()?;
    let mut seen = 0;
    for (at, function) in functions.iter().enumerate() {
        let (bytes, chain) = deepest(&functions, at);
        let named = |at: &usize| format!("{} {}", functions[*at].bytes, functions[*at].name);
        let names = chain.iter().map(named).collect::<Vec<_>>().join("\n  ");
        ensure!(bytes <= STACK_BYTES, "{bytes} bytes of {STACK_BYTES}:\n  {names}");
        // Programs with little else than calls would mean that calls are not understood.
        if function.name == "packet_in" || function.name == "packet_out_plain" {
            ensure!(bytes > STACK_BYTES / 2 && chain.len() > 2, "{bytes} bytes:\n  {names}");
            seen += 1;
        }
    }
    ensure!(seen == 2, "the packet path's programs were not found");
    Ok(())
}
