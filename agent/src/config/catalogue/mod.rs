//! Every setting there is, once: its place in a file, its flags, its default, and what it does
//! here. Files are decoded, flags are parsed and `config print` is written by this table.

mod kube_proxy;
mod own;

use super::value::{Shape, Value};

/// Which document of the file a setting stands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Document {
    /// `kubeproxy.config.k8s.io/v1alpha1` `KubeProxyConfiguration`.
    KubeProxy,
    /// `millrace.dev/v1alpha1` `MillraceConfiguration`.
    Millrace,
    /// None: it is a flag only.
    Flags,
}

impl Document {
    /// Its `apiVersion` and `kind`.
    pub const fn type_meta(self) -> (&'static str, &'static str) {
        match self {
            Self::KubeProxy => ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"),
            Self::Millrace => ("millrace.dev/v1alpha1", "MillraceConfiguration"),
            Self::Flags => ("", ""),
        }
    }

    /// The document of that type.
    pub fn of_type(api_version: &str, kind: &str) -> Option<Self> {
        let known = [Self::KubeProxy, Self::Millrace];
        known.into_iter().find(|document| document.type_meta() == (api_version, kind))
    }
}

/// What a setting does here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Effect {
    /// What it does in kube-proxy.
    Used,
    /// Something that comes near to it.
    Mapped,
    /// Nothing.
    Ignored,
    /// The agent does not start with it.
    Refused,
}

impl Effect {
    /// The name shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Mapped => "mapped",
            Self::Ignored => "ignored",
            Self::Refused => "refused",
        }
    }
}

/// Who may have given a flag, and what it then takes precedence over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlagRule {
    /// One of kube-proxy's that it ignores beside `--config`: so do we, if the file has a
    /// `KubeProxyConfiguration`.
    KubeProxy,
    /// It overrides the file.
    Overrides,
}

/// A flag of `millrace run`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// What it takes precedence over.
    pub rule: FlagRule,
}

/// A setting.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Field {
    /// Where it stands.
    pub document: Document,
    /// Its path there, with dots; for a flag alone, the flag's name.
    pub path: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// Its default, as one would write it after a flag; empty: none.
    pub default: &'static str,
    /// A zero value in the file means the default, as in kube-proxy.
    pub zero_is_default: bool,
    /// Its flags, the strongest first.
    pub flags: &'static [Flag],
    /// Its variable of the environment: weaker than flags, stronger than the file.
    pub env: Option<&'static str>,
    /// What it does here, unless its value makes a difference.
    pub effect: Effect,
    /// In words.
    pub here: &'static str,
    /// A change of the file is applied while running.
    pub live: bool,
}

/// What names a setting: its document and its path.
pub type Key = (Document, &'static str);

impl Field {
    const fn new(
        document: Document,
        path: &'static str,
        shape: Shape,
        default: &'static str,
        (effect, here): (Effect, &'static str),
    ) -> Self {
        Self {
            document,
            path,
            shape,
            default,
            zero_is_default: matches!(document, Document::KubeProxy),
            flags: &[],
            env: None,
            effect,
            here,
            live: matches!(effect, Effect::Ignored),
        }
    }
    /// With flags.
    const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }
    /// With a variable of the environment.
    const fn env(mut self, name: &'static str) -> Self {
        self.env = Some(name);
        self
    }
    /// A zero is a value like others.
    const fn zero_counts(mut self) -> Self {
        self.zero_is_default = false;
        self
    }
    /// A change is applied while running.
    const fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// Its name in the tables here.
    pub const fn key(&self) -> Key {
        (self.document, self.path)
    }

    /// Its default.
    pub fn default_value(&self) -> Value {
        if self.default.is_empty() {
            return Value::Null;
        }
        // Every default is read by a test.
        self.shape.read_text(self.default).unwrap_or(Value::Null)
    }
}

/// A flag that overrides the file.
const fn overrides(name: &'static str) -> Flag {
    Flag { name, rule: FlagRule::Overrides }
}

/// A flag that kube-proxy ignores beside `--config`.
const fn kube_proxy(name: &'static str) -> Flag {
    Flag { name, rule: FlagRule::KubeProxy }
}

/// Every setting, document by document.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    kube_proxy::FIELDS.iter().chain(own::FIELDS).chain(own::FLAGS)
}

/// The settings of a document.
pub fn of(document: Document) -> impl Iterator<Item = &'static Field> {
    fields().filter(move |field| field.document == document)
}

/// The setting of that name.
pub fn find(document: Document, path: &str) -> Option<&'static Field> {
    of(document).find(|field| field.path == path)
}
