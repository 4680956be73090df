//! Words of a command line.

use std::slice::Iter;

use anyhow::{Context, Result, bail};

/// The word after `flag`: one of those that are known.
pub fn one_of(args: &mut Iter<'_, String>, flag: &str, known: &[&str]) -> Result<String> {
    let name = args.next().with_context(|| format!("{flag} wants a name"))?;
    if !known.contains(&name.as_str()) {
        bail!("no {} `{name}`; there are {}", flag.trim_start_matches('-'), known.join("; "));
    }
    Ok(name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_told_what_is() {
        let words = ["b", "c"].map(str::to_owned);
        let mut args = words.iter();
        let mut next = || one_of(&mut args, "--stage", &["a", "b"]).map_err(|e| e.to_string());
        assert_eq!(next(), Ok("b".to_owned()));
        assert_eq!(next(), Err("no stage `c`; there are a; b".to_owned()));
        assert_eq!(next(), Err("--stage wants a name".to_owned()));
    }
}
