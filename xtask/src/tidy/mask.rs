//! Tells a Rust file's code from its comments and strings, well enough to search in each.

/// A file's text with parts of it replaced by blanks; lines and columns stay where they were.
pub struct Masked {
    /// Code only: comments and the contents of strings are blank.
    pub code: String,
    /// Code and comments: only the contents of strings are blank.
    pub prose: String,
}

/// What a stretch of text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

/// Splits a file.
pub fn mask(source: &str) -> Masked {
    let chars: Vec<char> = source.chars().collect();
    let mut masked = Masked { code: String::new(), prose: String::new() };
    let mut at = 0;
    while at < chars.len() {
        let (kind, length) = next(&chars, at);
        for &char in &chars[at..at + length] {
            let blank = if char == '\n' { '\n' } else { ' ' };
            masked.code.push(if kind == Kind::Code { char } else { blank });
            masked.prose.push(if kind == Kind::Text { blank } else { char });
        }
        at += length;
    }
    masked
}

/// The kind and the length of what starts here; at least one character.
fn next(chars: &[char], at: usize) -> (Kind, usize) {
    let rest = &chars[at..];
    let in_word = at > 0 && is_word(chars[at - 1]);
    let (kind, length) = match rest {
        ['/', '/', ..] => (Kind::Comment, until(rest, |rest| rest[0] == '\n')),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::Text, quoted(rest)),
        ['\'', '\\', ..] => (Kind::Text, 2 + until(&rest[2..], |r| r[0] == '\'').max(1) + 1),
        ['\'', _, '\'', ..] => (Kind::Text, 3),
        ['r', '"' | '#', ..] if !in_word => raw(rest, 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !in_word => raw(rest, 2),
        _ => (Kind::Code, 1),
    };
    // What an unfinished file does not close ends with it.
    (kind, length.min(rest.len()))
}

/// Whether a character may be part of a name.
pub fn is_word(char: char) -> bool {
    char.is_alphanumeric() || char == '_'
}

/// How many characters come before the place that `stop` names.
fn until(chars: &[char], stop: impl Fn(&[char]) -> bool) -> usize {
    (0..chars.len()).find(|&at| stop(&chars[at..])).unwrap_or(chars.len())
}

/// Block comments nest.
fn block_comment(chars: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// A string from its first to its last quote.
fn quoted(chars: &[char]) -> usize {
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A raw string after a prefix of this length, or a raw identifier, which is code.
fn raw(chars: &[char], prefix: usize) -> (Kind, usize) {
    let hashes = until(&chars[prefix..], |rest| rest[0] != '#');
    let open = prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return (Kind::Code, open);
    }
    let ends = |rest: &[char]| {
        rest[0] == '"' && rest.len() > hashes && rest[1..=hashes].iter().all(|&char| char == '#')
    };
    (Kind::Text, open + 1 + until(&chars[open + 1..], ends) + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str, prose: &str) {
        let masked = mask(source);
        assert_eq!(masked.code, code, "code of {source:?}");
        assert_eq!(masked.prose, prose, "prose of {source:?}");
        assert_eq!(masked.code.chars().count(), source.chars().count());
    }

    #[test]
    fn comments_and_strings() {
        check("a // b", "a     ", "a // b");
        check("a /* b /* c */ d */ e", "a                   e", "a /* b /* c */ d */ e");
        check("a(\"{ // \\\" }\") {", "a(           ) {", "a(           ) {");
        check("\"two\nlines\" x", "    \n       x", "    \n       x");
    }

    #[test]
    fn raw_and_byte_strings() {
        check("r#\"a\"b\"# c", "         c", "         c");
        check("br\"\\\" {", "      {", "      {");
        check("r#type {", "r#type {", "r#type {");
        check("for\"x\"", "for   ", "for   ");
    }

    #[test]
    fn characters_and_lifetimes() {
        check(
            "'{' &'a T '\\'' '\\u{7b}' }",
            "    &'a T               }",
            "    &'a T               }",
        );
        check("'\\\\' {", "     {", "     {");
    }

    #[test]
    fn unfinished_text_does_not_run_over() {
        check("\"abc", "    ", "    ");
        check("/* abc", "      ", "/* abc");
        check("r##\"abc\"#", "         ", "         ");
        check("'\\", "  ", "  ");
    }
}
