//! Pages made of a result: a self-contained one to look at ([`html`]), and the parts of the
//! repository's documents that hold figures ([`markdown`]), with their pictures ([`plots`]).

mod html;
mod markdown;
mod plots;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::result::Run;

pub use html::page;

/// Documents that hold figures, and what makes them; all below the repository's root.
const DOCUMENT: &str = "docs/BENCHMARKS.md";
const README: &str = "README.md";
const PICTURE: &str = "docs/bench/connect.svg";

/// Make the documents' figures and the picture from a result.
pub fn write(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let run: Run =
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    for (name, text) in made(&run)? {
        let path = root().join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {name}");
    }
    Ok(())
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files and what must be in them.
fn made(run: &Run) -> Result<Vec<(&'static str, String)>> {
    let read = |name: &str| {
        std::fs::read_to_string(root().join(name)).with_context(|| format!("read {name}"))
    };
    let document = markdown::replace(&read(DOCUMENT)?, &markdown::results(run))
        .with_context(|| format!("{DOCUMENT} has no place for results"))?;
    let readme = markdown::replace(&read(README)?, &markdown::summary(run))
        .with_context(|| format!("{README} has no place for results"))?;
    Ok(vec![(DOCUMENT, document), (README, readme), (PICTURE, plots::connect(run)?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result that the documents' figures are of.
    const RESULT: &str = "docs/bench/full.json";

    #[test]
    fn the_documents_figures_are_those_of_the_committed_result() {
        let text = std::fs::read_to_string(root().join(RESULT)).unwrap();
        let run: Run = serde_json::from_str(&text).unwrap();
        for (name, wanted) in made(&run).unwrap() {
            let found = std::fs::read_to_string(root().join(name)).unwrap();
            let how = format!("cargo xtask bench --report {RESULT}");
            assert!(found == wanted, "{name} is not what `{how}` makes of it");
        }
    }

    #[test]
    fn a_page_is_whole_and_needs_nothing_from_elsewhere() {
        let text = std::fs::read_to_string(root().join(RESULT)).unwrap();
        let run: Run = serde_json::from_str(&text).unwrap();
        let page = page(&run).unwrap();
        for part in ["<!doctype html>", "prefers-color-scheme: dark", "<svg", "width=device-width"]
        {
            assert!(page.contains(part), "no {part}");
        }
        let outside = ["src=", "href=", "@import", "url("];
        assert!(outside.iter().all(|part| !page.contains(part)));
        for group in &run.groups {
            assert!(page.contains(&group.title), "{}", group.title);
        }
    }
}
