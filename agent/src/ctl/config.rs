//! `millrace config`: is a configuration right, and what does it come to.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;

use crate::config::Effective;
use crate::config::file::Recipe;
use crate::config::finding::{Findings, Weight};
use crate::config::print;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
    /// As YAML; of `print`: a file that means the same.
    Yaml,
}

/// Print what is to be said about a configuration; the exit code says whether it can be used.
pub fn check(recipe: &Recipe, output: Output) -> Result<ExitCode> {
    let (effective, findings) = resolve(recipe)?;
    match output {
        Output::Text => {
            for finding in &findings.0 {
                println!("{finding}");
            }
            let count = |weight| findings.of(weight).count();
            println!(
                "{} errors, {} warnings, {} notes",
                count(Weight::Error),
                count(Weight::Warning),
                count(Weight::Note)
            );
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&json(&findings))?),
        Output::Yaml => print!("{}", yaml(&json(&findings))?),
    }
    Ok(if effective.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Print every setting.
pub fn print(recipe: &Recipe, output: Output) -> Result<ExitCode> {
    let (effective, findings) = resolve(recipe)?;
    let Some(effective) = effective else {
        eprintln!("millrace: {}", findings.errors());
        return Ok(ExitCode::FAILURE);
    };
    match output {
        Output::Text => print!("{}", print::text(&effective, &findings)),
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&print::json(&effective, &findings))?);
        }
        Output::Yaml => print!("{}", file(&effective)?),
    }
    Ok(ExitCode::SUCCESS)
}

/// Write the effective configuration to a file.
pub fn write(effective: &Effective, path: &Path) -> Result<()> {
    std::fs::write(path, file(effective)?).with_context(|| format!("write {}", path.display()))
}

fn resolve(recipe: &Recipe) -> Result<(Option<Effective>, Findings)> {
    let text = recipe.read()?;
    recipe.resolve(text.as_deref())
}

fn json(findings: &Findings) -> serde_json::Value {
    json!({ "usable": !findings.has_errors(), "findings": findings.0 })
}

/// Both documents in one file.
fn file(effective: &Effective) -> Result<String> {
    let [theirs, ours] = print::documents(effective);
    Ok(format!("{}---\n{}", yaml(&theirs)?, yaml(&ours)?))
}

fn yaml(value: &serde_json::Value) -> Result<String> {
    serde_saphyr::to_string(value).context("write YAML")
}
