//! Layers of settings, one over the other: defaults, the file, the environment, flags. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{self, Document, Effect, Field, FlagRule, Key};
use super::decode::{self, Decoded};
use super::finding::Findings;
use super::value::{Shape, Value};

/// All that a configuration is made of.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The file's name and text.
    pub file: Option<(String, String)>,
    /// Flags that were given.
    pub flags: Vec<GivenFlag>,
    /// Variables of the environment that are read here.
    pub environment: BTreeMap<String, String>,
    /// What must be known of the machine.
    pub machine: Machine,
}

/// A flag that was given, with its values in their order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GivenFlag {
    /// With its dashes.
    pub name: &'static str,
    /// What was given.
    pub values: Vec<String>,
}

/// What must be known of the machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Machine {
    /// Its processors.
    pub cpus: u32,
    /// Its name.
    pub host_name: String,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The file names the setting on this line and leaves it open.
    LeftOpen(u64),
    /// The file's line.
    File(u64),
    /// A variable of the environment.
    Environment(&'static str),
    /// A flag.
    Flag(&'static str),
    /// It follows from another setting.
    From(&'static str),
}

impl Origin {
    /// Which of two values counts; 0: none was given.
    pub const fn rank(&self) -> u8 {
        match self {
            Self::Default | Self::LeftOpen(_) | Self::From(_) => 0,
            Self::File(_) => 1,
            Self::Environment(_) => 2,
            Self::Flag(_) => 3,
        }
    }
    /// Whether somebody gave it.
    pub const fn is_given(&self) -> bool {
        self.rank() > 0
    }
}

/// A setting with its value.
#[derive(Clone, PartialEq, Debug)]
pub struct Setting {
    /// Which.
    pub field: &'static Field,
    /// Its value in force.
    pub value: Value,
    /// Where that comes from.
    pub origin: Origin,
    /// What it does here.
    pub effect: Effect,
    /// In words.
    pub here: String,
}

/// All settings, and what is to be said about them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By document and path.
    pub all: BTreeMap<Key, Setting>,
    /// What is to be said.
    pub findings: Findings,
    /// Documents that the file has.
    pub documents: BTreeSet<Document>,
    /// The file's name.
    pub file: Option<String>,
}

/// Lay them one over the other.
pub fn merge(inputs: &Inputs) -> Settings {
    let mut findings = Findings::default();
    let decoded = match &inputs.file {
        Some((name, text)) => decode::decode(name, text, &mut findings),
        None => Decoded::default(),
    };
    let mut layers = Layers { inputs, decoded: &decoded, findings };
    let all = catalogue::fields().map(|field| (field.key(), layers.setting(field))).collect();
    Settings {
        all,
        findings: layers.findings,
        documents: decoded.documents,
        file: inputs.file.as_ref().map(|(name, _)| name.clone()),
    }
}

struct Layers<'a> {
    inputs: &'a Inputs,
    decoded: &'a Decoded,
    findings: Findings,
}

impl Layers<'_> {
    fn setting(&mut self, field: &'static Field) -> Setting {
        let found = self.flag(field).or_else(|| self.variable(field));
        let (value, origin) = found.unwrap_or_else(|| self.file_or_default(field));
        Setting { field, value, origin, effect: field.effect, here: field.here.to_owned() }
    }

    fn flag(&mut self, field: &'static Field) -> Option<(Value, Origin)> {
        let mut found = None;
        for flag in field.flags {
            let Some(given) = self.inputs.flags.iter().find(|given| given.name == flag.name) else {
                continue;
            };
            let has_config = self.decoded.documents.contains(&Document::KubeProxy);
            if flag.rule == FlagRule::KubeProxy && has_config {
                let message = "ignored beside a KubeProxyConfiguration, as by kube-proxy: write it \
                               there";
                self.findings.note(flag.name, message);
                continue;
            }
            if found.is_some() {
                self.findings.note(flag.name, "ignored: a stronger flag says the same");
                continue;
            }
            match read(field.shape, &given.values) {
                Ok(value) => found = Some((value, Origin::Flag(flag.name))),
                Err((text, fix)) => self.findings.error(flag.name, format!("{text:?}: {fix}")),
            }
        }
        found
    }

    fn variable(&mut self, field: &'static Field) -> Option<(Value, Origin)> {
        let name = field.env?;
        let text = self.inputs.environment.get(name).filter(|text| !text.is_empty())?;
        match field.shape.read_text(text) {
            Ok(value) => Some((value, Origin::Environment(name))),
            Err(fix) => {
                self.findings.error(format!("environment {name}"), format!("{text:?}: {fix}"));
                None
            }
        }
    }

    fn file_or_default(&self, field: &'static Field) -> (Value, Origin) {
        match self.decoded.given.get(&field.key()) {
            Some((value, line)) => {
                let is_open = *value == Value::Null || (field.zero_is_default && value.is_zero());
                if is_open {
                    (field.default_value(), Origin::LeftOpen(*line))
                } else {
                    (value.clone(), Origin::File(*line))
                }
            }
            None => (field.default_value(), Origin::Default),
        }
    }
}

/// A flag's value: lists add up, of anything else the last counts. The error: the text and the fix.
fn read(shape: Shape, values: &[String]) -> Result<Value, (String, String)> {
    let text = match shape {
        Shape::List | Shape::Map => values.join(","),
        _ => values.last().cloned().unwrap_or_default(),
    };
    shape.read_text(&text).map_err(|fix| (text, fix))
}

impl Settings {
    /// A setting. Every key that is asked for is in the catalogue; a test asks for all.
    fn get(&self, key: Key) -> Option<&Setting> {
        let found = self.all.get(&key);
        debug_assert!(found.is_some(), "{key:?} is not in the catalogue");
        found
    }

    /// Its value.
    pub fn value(&self, key: Key) -> &Value {
        self.get(key).map_or(&Value::Null, |setting| &setting.value)
    }

    /// Where its value comes from.
    pub fn origin(&self, key: Key) -> Origin {
        self.get(key).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// A text; empty if there is none.
    pub fn text(&self, key: Key) -> &str {
        match self.value(key) {
            Value::Text(text) => text,
            _ => "",
        }
    }

    /// A truth.
    pub fn is_set(&self, key: Key) -> bool {
        *self.value(key) == Value::Bool(true)
    }

    /// A whole number.
    pub fn int(&self, key: Key) -> Option<i64> {
        match self.value(key) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A length of time, in nanoseconds.
    pub fn nanos(&self, key: Key) -> i64 {
        match self.value(key) {
            Value::Duration(nanos) => *nanos,
            _ => 0,
        }
    }

    /// Texts.
    pub fn list(&self, key: Key) -> &[String] {
        match self.value(key) {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Where a person finds it: the flag, or the file, line and path.
    pub fn place(&self, key: Key) -> String {
        let file = self.file.as_deref().unwrap_or_default();
        match self.origin(key) {
            Origin::Flag(name) => name.to_owned(),
            Origin::Environment(name) => format!("environment {name}"),
            Origin::File(line) | Origin::LeftOpen(line) => format!("{file}:{line} {}", key.1),
            Origin::Default | Origin::From(_) => key.1.to_owned(),
        }
    }

    /// Something is wrong with its value.
    pub fn error(&mut self, key: Key, message: impl Into<String>) {
        let place = self.place(key);
        self.findings.error(place, message);
    }

    /// Its value will surprise.
    pub fn warn(&mut self, key: Key, message: impl Into<String>) {
        let place = self.place(key);
        self.findings.warn(place, message);
    }

    /// Say what it does, for this value.
    pub fn remark(&mut self, key: Key, effect: Effect, here: impl Into<String>) {
        if let Some(setting) = self.all.get_mut(&key) {
            setting.effect = effect;
            setting.here = here.into();
        }
    }

    /// The value that stands for none, or follows from others.
    pub fn fill(&mut self, key: Key, value: Value, origin: Option<Origin>) {
        if let Some(setting) = self.all.get_mut(&key) {
            setting.value = value;
            setting.origin = origin.unwrap_or_else(|| setting.origin.clone());
        }
    }
}
