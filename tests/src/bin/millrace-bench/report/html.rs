//! The page: tables and plots in one file, light and dark, for phones too.

use std::fmt::Write as _;

use anyhow::Result;

use super::plots;
use crate::result::Run;
use crate::tables::{self, Section};

/// Colours follow the reader's setting; wide tables scroll by themselves.
const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --text: #222; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --back: #16181c; --text: #ddd; --line: #383c44; } }
body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 70rem; padding: 1rem; }
svg { color: var(--text); max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: 0.25rem 0.6rem; text-align: left; }
td { white-space: nowrap; }
@media (max-width: 40rem) { body { font-size: 14px; padding: 0.5rem; } }
";

/// The whole page.
pub fn page(run: &Run) -> Result<String> {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    page.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    // Writing to a string cannot fail.
    let _ = write!(page, "<title>Millrace: benchmark</title>\n<style>{STYLE}</style>\n");
    let _ =
        writeln!(page, "<h1>What a Service costs</h1>\n<p>{}</p>", escaped(&tables::about(run)));
    for plot in plots::all(run)? {
        let _ = writeln!(page, "<figure class=\"wide\">{plot}</figure>");
    }
    tables::all(run).iter().for_each(|section| table(&mut page, section));
    page.push_str("</html>\n");
    Ok(page)
}

fn table(page: &mut String, section: &Section) {
    let row = |cells: &[String], tag: &str| {
        let cells: Vec<String> =
            cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{}</tr>\n", cells.concat())
    };
    let _ = writeln!(page, "<h2>{}</h2>\n<div class=\"wide\"><table>", escaped(&section.title));
    page.push_str(&row(&section.header, "th"));
    section.rows.iter().for_each(|cells| page.push_str(&row(cells, "td")));
    let _ = writeln!(page, "</table></div>\n<p>{}</p>", escaped(&section.note));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_not_tags() {
        assert_eq!(escaped("<= 1 & >= 2"), "&lt;= 1 &amp; &gt;= 2");
    }
}
