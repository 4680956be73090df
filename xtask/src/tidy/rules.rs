//! Rules about one file's text: sizes, words, attributes, paths.

use super::mask::{Masked, is_word};

/// A rule's name, the line it is broken on, what to say.
type Found = (&'static str, usize, String);

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

/// Macros that say that the work is not done.
const BANNED_MACROS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// Comments that say so.
const BANNED_WORDS: &[&str] = &["FIXME", "XXX", "HACK"];

/// Where crates come from. Anything else was a machine's private mirror.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// The rules for every tracked text file: nothing in it may depend on one machine.
pub fn any_file(path: &str, text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for (number, line) in numbered(text) {
        // Written in two parts, or this file would break the rule.
        for directory in [concat!("/wo", "rk/"), concat!("/ho", "me/")] {
            if starts_path(line, directory) {
                let message = format!("`{directory}` is a directory of one machine");
                found.push(("absolute-path", number, message));
            }
        }
        if private_registry(path, line) {
            let message = "only crates.io, by its public name, may be named here".to_owned();
            found.push(("registry", number, message));
        }
    }
    found
}

/// The rules for Rust files.
pub fn rust_file(text: &str, masked: &Masked) -> Vec<Found> {
    let mut found = Vec::new();
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("{lines} lines, more than {FILE_LINES_MAX}");
        found.push(("file-length", lines, message));
    }
    for (number, line) in numbered(text) {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let message = format!("{columns} columns, more than {LINE_COLUMNS_MAX}");
            found.push(("line-length", number, message));
        }
    }
    if !has_module_doc(text) {
        let message = "the file must begin with `//!` and say what it is for".to_owned();
        found.push(("module-doc", 1, message));
    }
    found.extend(words(masked));
    found.extend(attributes(&masked.code));
    found.extend(long_functions(&masked.code));
    found
}

/// Lines with their numbers, counted from 1.
pub fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

/// Whether a text contains a word, not merely as a part of a longer one.
pub fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + word.len()..].chars().next();
        let open = |char: Option<char>| !char.is_some_and(is_word);
        // A word that ends in `!` or `:` cannot go on.
        open(before) && (open(after) || !word.ends_with(is_word))
    })
}

/// Whether an absolute path begins with this directory, as opposed to a relative one with the
/// directory in its middle.
fn starts_path(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(start, _)| {
        let before = line[..start].chars().next_back();
        !before.is_some_and(|char| is_word(char) || matches!(char, '.' | '-' | '}' | '$' | '*'))
    })
}

fn private_registry(path: &str, line: &str) -> bool {
    let line = line.trim();
    if path.ends_with("Cargo.lock") {
        return line
            .strip_prefix("source = ")
            .is_some_and(|from| from.trim_matches('"') != CRATES_IO);
    }
    let sections = ["[source.", "[registry", "[registries"];
    path.contains(".cargo/") && sections.iter().any(|section| line.starts_with(section))
}

/// The first thing in a file, after attributes such as `#![no_std]`, must be its documentation.
fn has_module_doc(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with("#!["));
    first.is_some_and(|line| line.starts_with("//!"))
}

fn words(masked: &Masked) -> Vec<Found> {
    let macros = numbered(&masked.code).map(|line| (line, BANNED_MACROS));
    let comments = numbered(&masked.prose).map(|line| (line, BANNED_WORDS));
    let mut found = Vec::new();
    for ((number, line), banned) in macros.chain(comments) {
        for word in banned.iter().filter(|word| has_word(line, word)) {
            found.push(("banned-word", number, format!("`{word}`: finish it, or write an issue")));
        }
    }
    found
}

fn attributes(code: &str) -> Vec<Found> {
    let mut found = Vec::new();
    for (number, line) in numbered(code) {
        if line.contains("#[ignore]") {
            let message = "say why: `#[ignore = \"reason\"]`".to_owned();
            found.push(("ignore-reason", number, message));
        }
        if line.contains("#[allow(") || line.contains("#![allow(") {
            let message = "write `#[expect(.., reason = \"..\")]`, which notices when it is no \
                           longer needed";
            found.push(("allow-attribute", number, message.to_owned()));
        }
    }
    found
}

/// Functions with too many lines, from `fn` to the closing brace.
fn long_functions(code: &str) -> Vec<Found> {
    let chars: Vec<char> = code.chars().collect();
    let mut found = Vec::new();
    let mut line = 1;
    for (at, &char) in chars.iter().enumerate() {
        if char == '\n' {
            line += 1;
        }
        if let Some((name, lines)) = function_at(&chars, at)
            && lines > FUNCTION_LINES_MAX
        {
            let message = format!("`{name}` has {lines} lines, more than {FUNCTION_LINES_MAX}");
            found.push(("function-length", line, message));
        }
    }
    found
}

/// Name and number of lines of the function whose `fn` stands here. A type such as `fn(u8)` has no
/// name, a declaration no body: neither counts.
fn function_at(chars: &[char], at: usize) -> Option<(String, usize)> {
    let rest = chars[at..].strip_prefix(&['f', 'n', ' '])?;
    if at > 0 && is_word(chars[at - 1]) {
        return None;
    }
    let name: String = rest.iter().take_while(|char| is_word(**char)).collect();
    if name.is_empty() {
        return None;
    }
    let open = body_start(rest)?;
    let mut depth = 0;
    let length = rest[open..].iter().position(|char| {
        depth += match char {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    })?;
    let lines = rest[..open + length].iter().filter(|char| **char == '\n').count() + 1;
    Some((name, lines))
}

/// Where the brace of the body is. A `;` before it, outside of brackets as in `[u8; 4]`, ends a
/// declaration.
fn body_start(chars: &[char]) -> Option<usize> {
    let mut depth = 0;
    for (at, char) in chars.iter().enumerate() {
        match char {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::mask::mask;

    fn rules_of(text: &str) -> Vec<(&'static str, usize)> {
        let found = rust_file(text, &mask(text));
        found.into_iter().map(|(rule, line, _)| (rule, line)).collect()
    }

    fn function(lines: usize) -> String {
        format!("//! Doc.\nfn long(a: [u8; 2]) {{\n{}}}\n", "    f();\n".repeat(lines - 2))
    }

    #[test]
    fn functions_and_files_have_limits() {
        assert_eq!(rules_of(&function(FUNCTION_LINES_MAX)), []);
        assert_eq!(rules_of(&function(FUNCTION_LINES_MAX + 1)), [("function-length", 2)]);
        let file = format!("//! Doc.\n{}", "\n".repeat(FILE_LINES_MAX));
        assert_eq!(rules_of(&file), [("file-length", FILE_LINES_MAX + 1)]);
    }

    #[test]
    fn braces_in_text_and_declarations_do_not_confuse() {
        let tail = "\n".repeat(FUNCTION_LINES_MAX);
        let declaration = format!("//! Doc.\nfn f(x: fn(u8)) -> u8;{tail}struct S {{}}\n");
        assert_eq!(rules_of(&declaration), []);
        let text = format!("//! Doc.\nfn f() {{ g(\"{{\", '{{'); /* {{ */ }}{tail}struct S;\n");
        assert_eq!(rules_of(&text), []);
    }

    #[test]
    fn lines_have_columns() {
        let comment = |columns: usize| format!("//! {}\n", "é".repeat(columns - 4));
        assert_eq!(rules_of(&comment(LINE_COLUMNS_MAX)), []);
        assert_eq!(rules_of(&comment(LINE_COLUMNS_MAX + 1)), [("line-length", 1)]);
    }

    #[test]
    fn files_say_what_they_are_for() {
        assert_eq!(rules_of("#![no_std]\n\n//! Doc.\n"), []);
        assert_eq!(rules_of("use a::b;\n//! Too late.\n"), [("module-doc", 1)]);
        assert_eq!(rules_of(""), [("module-doc", 1)]);
    }

    #[test]
    fn unfinished_work_is_named() {
        assert_eq!(rules_of("//! Doc.\nfn f() { todo!() }\n"), [("banned-word", 2)]);
        assert_eq!(rules_of("//! Doc.\n// FIXME: later\n"), [("banned-word", 2)]);
        assert_eq!(rules_of("//! todo! in prose, \"XXXL\", HACKING.\n"), []);
        assert_eq!(rules_of("//! Doc.\nconst W: &str = \"FIXME dbg!\";\n"), []);
    }

    #[test]
    fn attributes_carry_reasons() {
        assert_eq!(rules_of("//! D.\n#[ignore]\nfn f() {}\n"), [("ignore-reason", 2)]);
        assert_eq!(rules_of("//! D.\n#[ignore = \"slow\"]\nfn f() {}\n"), []);
        assert_eq!(rules_of("//! D.\n#[allow(dead_code)]\nfn f() {}\n"), [("allow-attribute", 2)]);
        assert_eq!(rules_of("//! D.\n#![allow(unused)]\n"), [("allow-attribute", 2)]);
        assert_eq!(rules_of("//! D.\n#[expect(dead_code, reason = \"r\")]\nfn f() {}\n"), []);
    }

    #[test]
    fn nothing_depends_on_one_machine() {
        let home = concat!("/ho", "me/");
        let rules = |path: &str, text: &str| any_file(path, text).len();
        assert_eq!(rules("README.md", &format!("see {home}me/notes")), 1);
        assert_eq!(rules("README.md", &format!("see https://example.org{home}")), 0);
        assert_eq!(rules("Cargo.lock", &format!("source = \"{CRATES_IO}\"")), 0);
        assert_eq!(rules("Cargo.lock", "source = \"registry+https://mirror.test/index\""), 1);
        assert_eq!(rules(".cargo/config.toml", "[source.crates-io]"), 1);
        assert_eq!(rules("deny.toml", "[sources]"), 0);
    }
}
