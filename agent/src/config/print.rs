//! `config print`: every setting, where its value comes from, and what it does here. Pure.

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::{Value as Json, json};

use super::catalogue::{self, Document, Effect};
use super::effective::Effective;
use super::finding::Findings;
use super::merge::{Origin, Setting};

/// Where a value comes from, in words; lines are the file's.
pub fn origin(setting: &Setting) -> String {
    match &setting.origin {
        Origin::Default => "default".into(),
        Origin::LeftOpen(line) => format!("default (line {line} leaves it open)"),
        Origin::File(line) => format!("line {line}"),
        Origin::Environment(name) => format!("environment {name}"),
        Origin::Flag(name) => (*name).to_owned(),
        Origin::From(what) => format!("from {what}"),
    }
}

/// The same for machines.
fn origin_json(file: Option<&str>, setting: &Setting) -> Json {
    match &setting.origin {
        Origin::Default => json!({"kind": "default"}),
        Origin::LeftOpen(line) => json!({"kind": "default", "file": file, "line": line}),
        Origin::File(line) => json!({"kind": "file", "file": file, "line": line}),
        Origin::Environment(name) => json!({"kind": "environment", "name": name}),
        Origin::Flag(name) => json!({"kind": "flag", "name": name}),
        Origin::From(what) => json!({"kind": "derived", "from": what}),
    }
}

/// The settings in the order of the catalogue.
fn settings(effective: &Effective, document: Document) -> impl Iterator<Item = &Setting> {
    catalogue::of(document).filter_map(|field| effective.settings.get(&field.key()))
}

/// For people.
pub fn text(effective: &Effective, findings: &Findings) -> String {
    let mut out = String::new();
    out.push_str(&format!("Node:         {}\n", effective.node_name));
    let file = effective.file.as_deref().unwrap_or("none; --config names one");
    out.push_str(&format!("File:         {file}\n"));
    out.push_str(&format!("Services of:  {}\n", effective.source_chosen));
    for document in [Document::KubeProxy, Document::Millrace, Document::Flags] {
        let (api_version, kind) = document.type_meta();
        let title = if kind.is_empty() {
            "Flags that are no field".to_owned()
        } else {
            format!("{kind} ({api_version})")
        };
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(["FIELD", "VALUE", "FROM", "HERE"]);
        for setting in settings(effective, document) {
            table.add_row([
                setting.field.path.to_owned(),
                setting.value.to_text(),
                origin(setting),
                format!("{}: {}", setting.effect.name(), setting.here),
            ]);
        }
        out.push_str(&format!("\n{title}\n{table}\n"));
    }
    if !findings.0.is_empty() {
        out.push('\n');
        out.extend(findings.0.iter().map(|finding| format!("{finding}\n")));
    }
    out
}

/// For machines.
pub fn json(effective: &Effective, findings: &Findings) -> Json {
    let field = |setting: &Setting| {
        let (_, kind) = setting.field.document.type_meta();
        json!({
            "field": setting.field.path,
            "document": if kind.is_empty() { Json::Null } else { kind.into() },
            "value": setting.value.to_json(),
            "from": origin_json(effective.file.as_deref(), setting),
            "effect": setting.effect.name(),
            "here": setting.here,
            "live": setting.field.live,
        })
    };
    let documents = [Document::KubeProxy, Document::Millrace, Document::Flags];
    let fields = documents.into_iter().flat_map(|document| settings(effective, document));
    json!({
        "nodeName": effective.node_name,
        "source": effective.source_chosen,
        "fields": fields.map(field).collect::<Vec<_>>(),
        "findings": findings.0,
    })
}

/// The documents themselves, with every value in force: a file that means the same.
pub fn documents(effective: &Effective) -> [Json; 2] {
    [Document::KubeProxy, Document::Millrace].map(|document| effective.document(document))
}

/// The table of a document's settings as the README has it.
pub fn markdown(document: Document) -> String {
    let first = if document == Document::Flags { "Flag" } else { "Field" };
    let mut out = format!("| {first} | Flags | Default | Here |\n|---|---|---|---|\n");
    for field in catalogue::of(document) {
        let flags = field.flags.iter().filter(|flag| flag.name != field.path);
        let flags: Vec<String> = flags.map(|flag| format!("`{}`", flag.name)).collect();
        let default = match field.default {
            "" => String::new(),
            default => format!("`{default}`"),
        };
        let live = if field.live && field.effect != Effect::Ignored { "; live" } else { "" };
        let here = format!("{}{live}: {}", field.effect.name(), field.here.replace('|', "\\|"));
        out.push_str(&format!("| `{}` | {} | {default} | {here} |\n", field.path, flags.join(" ")));
    }
    out
}
