//! The door to what a configuration is made of: the file, the environment, the machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::catalogue;
use super::effective::Effective;
use super::finding::Findings;
use super::merge::{GivenFlag, Inputs, Machine};
use super::resolve::{self, resolve};

/// The largest file that is read, in bytes; ConfigMaps cannot be larger.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration that can be read again: the file and the flags it is read with.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// `--config`.
    pub path: Option<PathBuf>,
    /// All flags.
    pub flags: Vec<GivenFlag>,
}

impl Recipe {
    /// From flags; `--config` is among them.
    pub fn of(flags: Vec<GivenFlag>) -> Self {
        let config = flags.iter().find(|flag| flag.name == "--config");
        let path = config.and_then(|flag| flag.values.last()).filter(|path| !path.is_empty());
        Self { path: path.map(PathBuf::from), flags }
    }

    /// What was given for a flag of text.
    pub fn value(&self, name: &str) -> Option<&str> {
        let given = self.flags.iter().find(|flag| flag.name == name)?;
        given.values.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a flag that says yes or no was given, and said yes.
    pub fn asks(&self, name: &str) -> bool {
        let given = self.flags.iter().find(|flag| flag.name == name);
        given.and_then(|flag| flag.values.last()).is_some_and(|value| value == "true")
    }

    /// The file's text, if there is to be one.
    pub fn read(&self) -> Result<Option<String>> {
        self.path.as_deref().map(read).transpose()
    }

    /// The configuration that follows from a text of the file.
    pub fn resolve(&self, text: Option<&str>) -> Result<(Option<Effective>, Findings)> {
        let name = self.path.as_deref().map(|path| path.display().to_string());
        let inputs = Inputs {
            file: name.zip(text.map(str::to_owned)),
            flags: self.flags.clone(),
            environment: environment(),
            machine: machine()?,
        };
        Ok(resolve(&inputs))
    }
}

/// A file's text.
fn read(path: &Path) -> Result<String> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("read the configuration {shown}"))?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read the configuration {shown}"))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        bail!(
            "the configuration {shown} has more than {FILE_BYTES_MAX} bytes: is it the right one?"
        );
    }
    String::from_utf8(bytes).with_context(|| format!("the configuration {shown} is not text"))
}

/// The variables that are read.
fn environment() -> BTreeMap<String, String> {
    let ours = catalogue::fields().filter_map(|field| field.env);
    let names = ours.chain(resolve::IN_CLUSTER);
    names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
}

fn machine() -> Result<Machine> {
    let cpus = std::thread::available_parallelism().context("count the processors")?;
    let host_name =
        std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    Ok(Machine { cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX), host_name })
}
