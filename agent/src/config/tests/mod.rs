//! What a configuration comes to: tables from the specification, section 5, and the files that
//! kubeadm and EKS write.

mod decode;
mod fixtures;
mod live;
mod own;
mod precedence;
mod table;
mod validate;

use std::collections::BTreeMap;

use super::catalogue::{Document, Key};
use super::effective::Effective;
use super::finding::{Findings, Weight};
use super::flags;
use super::merge::{GivenFlag, Inputs, Machine, Setting};
use super::resolve;

/// The head of a `KubeProxyConfiguration`.
const KUBE_PROXY: &str =
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
/// The head of a `MillraceConfiguration`.
const OWN: &str = "apiVersion: millrace.dev/v1alpha1\nkind: MillraceConfiguration\n";

/// No file and no flags, on a machine with four processors that is called `Host-1`.
fn inputs() -> Inputs {
    let machine = Machine { cpus: 4, host_name: "Host-1\n".into() };
    Inputs { machine, ..Inputs::default() }
}

/// A file `config.conf` with a `KubeProxyConfiguration` of these lines, from the third on.
fn kube_proxy(lines: &str) -> Inputs {
    file(&format!("{KUBE_PROXY}{lines}\n"))
}

/// A file with our own document.
fn own(lines: &str) -> Inputs {
    file(&format!("{OWN}{lines}\n"))
}

fn file(text: &str) -> Inputs {
    Inputs { file: Some(("config.conf".into(), text.into())), ..inputs() }
}

/// With flags, as `--name=value` or `--name`.
fn with_flags(mut inputs: Inputs, given: &[&str]) -> Inputs {
    for text in given {
        let (name, value) = text.split_once('=').unwrap_or((text, "true"));
        let name = *flags::all().get_key_value(name).unwrap_or_else(|| panic!("no {name}")).0;
        match inputs.flags.iter_mut().find(|flag| flag.name == name) {
            Some(flag) => flag.values.push(value.into()),
            None => inputs.flags.push(GivenFlag { name, values: vec![value.into()] }),
        }
    }
    inputs
}

fn with_environment(inputs: Inputs, given: &[(&str, &str)]) -> Inputs {
    let pairs = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Inputs { environment: pairs.collect::<BTreeMap<_, _>>(), ..inputs }
}

/// The configuration; panics with what is wrong with it.
fn effective(inputs: &Inputs) -> Effective {
    let (effective, findings) = resolve(inputs);
    effective.unwrap_or_else(|| panic!("{}", findings.errors()))
}

fn findings(inputs: &Inputs) -> Findings {
    resolve(inputs).1
}

/// What is said with that weight, a line each.
fn said(inputs: &Inputs, weight: Weight) -> Vec<String> {
    findings(inputs).of(weight).map(|f| format!("{}: {}", f.place, f.message)).collect()
}

/// The only error.
fn error(inputs: &Inputs) -> String {
    let errors = said(inputs, Weight::Error);
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors[0].clone()
}

fn setting(effective: &Effective, key: Key) -> Setting {
    effective.settings[&key].clone()
}

const fn kp(path: &'static str) -> Key {
    (Document::KubeProxy, path)
}

const fn ours(path: &'static str) -> Key {
    (Document::Millrace, path)
}
