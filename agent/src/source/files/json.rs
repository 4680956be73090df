//! JSON manifests: one value or several, each object read where it lies in the text.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::parse::{Body, Head, LenientHead, Meaning, Parsed, Problem};
use super::parse::{decode, item, meaning, not_ours};

/// The items of a list.
#[derive(Deserialize)]
struct Items<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

/// Turns places in the text into line numbers; asked in ascending order, it reads the text once.
struct Lines<'a> {
    text: &'a str,
    offset: usize,
    line: u64,
}

impl Lines<'_> {
    fn of(&mut self, part: &str) -> u64 {
        let offset = part.as_ptr().addr().saturating_sub(self.text.as_ptr().addr());
        let between = self.text.as_bytes().get(self.offset..offset).unwrap_or_default();
        self.line += between.iter().filter(|byte| **byte == b'\n').count() as u64;
        self.offset = self.offset.max(offset);
        self.line
    }
}

/// Parse JSON.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Problem> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        Problem::at(line as u64 + 1, "this is not UTF-8")
    })?;
    let mut lines = Lines { text, offset: 0, line: 1 };
    let mut parsed = Parsed::default();
    for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let value = value.map_err(|error| Problem::at(error.line() as u64, error.to_string()))?;
        document(value.get(), &mut lines, &mut parsed)?;
    }
    Ok(parsed)
}

fn document(text: &str, lines: &mut Lines<'_>, parsed: &mut Parsed) -> Result<(), Problem> {
    let line = lines.of(text);
    let head = head(text, line)?;
    match meaning(head.api_version.as_deref(), head.kind.as_deref()) {
        Meaning::List(kind) => {
            let items: Items<'_> = serde_json::from_str(text)
                .map_err(|error| Problem::at(line, format!("items: {error}")))?;
            for value in items.items.unwrap_or_default() {
                let line = lines.of(value.get());
                let head = self::head(value.get(), line);
                parsed.push(match head {
                    Ok(head) => item(kind, line, head, Body::Text(value.get())),
                    Err(problem) => super::parse::Outcome::Problem(problem),
                });
            }
        }
        Meaning::One(kind) => parsed.push(decode(kind, line, head.name, Body::Text(text))),
        other => parsed.push(not_ours(other, line, &head)),
    }
    Ok(())
}

fn head(text: &str, line: u64) -> Result<Head, Problem> {
    serde_json::from_str::<LenientHead>(text)
        .map(Head::from)
        .map_err(|_| Problem::at(line, "this is not an object: expected {\"apiVersion\": ...}"))
}
