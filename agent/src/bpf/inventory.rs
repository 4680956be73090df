//! Everything of BPF that the kernel holds, whoever owns it: what a test of its own machine asks.

use std::io;

use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};

/// A program in the kernel.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LoadedProgram {
    /// Its name, cut to the kernel's 15 characters.
    pub name: String,
    /// Instructions that the verifier walked through; not told below Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// All programs, by name. Needs `CAP_SYS_ADMIN`, as all of this module.
pub fn programs() -> io::Result<Vec<LoadedProgram>> {
    let mut programs = loaded_programs()
        .map(|program| {
            let program = program.map_err(io::Error::other)?;
            Ok(LoadedProgram {
                name: String::from_utf8_lossy(program.name()).into_owned(),
                verified_instructions: program.verified_instruction_count(),
            })
        })
        .collect::<io::Result<Vec<_>>>()?;
    programs.sort();
    Ok(programs)
}

/// Names of all maps.
pub fn maps() -> io::Result<Vec<String>> {
    let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    loaded_maps().map(|map| Ok(name(map.map_err(io::Error::other)?.name()))).collect()
}

/// Number of links.
pub fn link_count() -> io::Result<usize> {
    // Each is asked for, because an id may belong to a link that is going.
    let links: Result<Vec<_>, _> = loaded_links().collect();
    Ok(links.map_err(io::Error::other)?.len())
}
