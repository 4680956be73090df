//! Values of settings: what may stand in a file or after a flag, and how they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::tree::{Located, Node};

/// Nanoseconds in a second.
const SECOND: i64 = 1_000_000_000;
/// Units of Go's durations, longest first, in nanoseconds.
const UNITS: &[(&str, i64)] = &[
    ("h", 3600 * SECOND),
    ("ms", SECOND / 1000),
    ("m", 60 * SECOND),
    ("ns", 1),
    ("us", 1000),
    ("µs", 1000),
    ("s", SECOND),
];

/// What a setting takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// `true` or `false`; as a flag, alone or with `=`.
    Bool,
    /// `on` or `off`; in a file `true` and `false` as well.
    Switch,
    /// A whole number between these, both included.
    Int(i64, i64),
    /// A number.
    Number,
    /// A length of time as Go writes it: `30s`, `1h30m`.
    Duration,
    /// Text.
    Text,
    /// Texts; as a flag, with commas between them or repeated.
    List,
    /// Names and values; as a flag, `NAME=VALUE,...`.
    Map,
    /// Whatever stands there: nothing of it is used.
    Any,
}

/// A setting's value.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Left open.
    Null,
    /// Of [`Shape::Bool`] and [`Shape::Switch`].
    Bool(bool),
    /// Of [`Shape::Int`].
    Int(i64),
    /// Of [`Shape::Number`].
    Number(f64),
    /// Of [`Shape::Duration`], in nanoseconds; Go's may be negative.
    Duration(i64),
    /// Of [`Shape::Text`].
    Text(String),
    /// Of [`Shape::List`].
    List(Vec<String>),
    /// Of [`Shape::Map`].
    Map(BTreeMap<String, String>),
    /// Of [`Shape::Any`].
    Any(Json),
}

impl Shape {
    /// What stands in a file. The error says what to write instead.
    pub fn read_node(self, node: &Node) -> Result<Value, String> {
        Ok(match (self, node) {
            (Self::Any, node) => Value::Any(node.to_json()),
            (_, Node::Null) => Value::Null,
            (Self::Bool | Self::Switch, Node::Bool(value)) => Value::Bool(*value),
            (Self::Bool | Self::Switch, Node::Text(text)) => {
                Value::Bool(word(text).ok_or("write true or false")?)
            }
            (Self::Int(..), Node::Int(value)) => self.int(*value)?,
            (Self::Number, Node::Int(value)) => Value::Number(*value as f64),
            (Self::Number, Node::Float(value)) => Value::Number(*value),
            // As kube-proxy's decoder: a bare zero is no duration, but means one well enough.
            (Self::Duration, Node::Int(0)) => Value::Duration(0),
            (Self::Duration, Node::Text(text)) => Value::Duration(duration(text)?),
            (Self::Text, Node::Text(text)) => Value::Text(text.clone()),
            (Self::List, Node::List(items)) => Value::List(texts(items)?),
            (Self::Map, Node::Map(entries)) => {
                let entry = |(name, value): &(String, Located)| match value.node.scalar() {
                    Some(text) => Ok((name.clone(), text)),
                    None => Err(format!("{name}: write a plain value")),
                };
                Value::Map(entries.iter().map(entry).collect::<Result<_, _>>()?)
            }
            _ => return Err(format!("write {}", self.expects())),
        })
    }

    /// What stands after a flag or in a variable of the environment.
    pub fn read_text(self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        Ok(match self {
            Self::Bool | Self::Switch => {
                Value::Bool(word(text).ok_or_else(|| format!("write {}", self.expects()))?)
            }
            Self::Int(..) => {
                let number = text.parse().map_err(|_| format!("write {}", self.expects()))?;
                self.int(number)?
            }
            Self::Number => {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                Value::Number(number.ok_or("write a number")?)
            }
            Self::Duration => Value::Duration(duration(text)?),
            Self::Text => Value::Text(text.to_owned()),
            Self::List if text.is_empty() => Value::List(Vec::new()),
            Self::List => Value::List(text.split(',').map(|t| t.trim().to_owned()).collect()),
            Self::Map if text.is_empty() => Value::Map(BTreeMap::new()),
            Self::Map => {
                let entry = |item: &str| {
                    let (name, value) = item.split_once('=').ok_or("write NAME=VALUE,...")?;
                    Ok::<_, String>((name.trim().to_owned(), value.trim().to_owned()))
                };
                Value::Map(text.split(',').map(entry).collect::<Result<_, _>>()?)
            }
            Self::Any => Value::Any(Json::String(text.to_owned())),
        })
    }

    fn int(self, value: i64) -> Result<Value, String> {
        match self {
            Self::Int(least, most) if value < least || value > most => {
                Err(format!("write {}", self.expects()))
            }
            _ => Ok(Value::Int(value)),
        }
    }

    fn expects(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Switch => "on or off".into(),
            Self::Int(least, i64::MAX) => format!("a whole number of at least {least}"),
            Self::Int(least, most) => format!("a whole number from {least} to {most}"),
            Self::Number => "a number".into(),
            Self::Duration => "a duration such as \"30s\" or \"1h30m\"".into(),
            Self::Text => "text (in quotes, if it looks like a number)".into(),
            Self::List => "a list".into(),
            Self::Map => "names and values".into(),
            Self::Any => "anything".into(),
        }
    }
}

impl Value {
    /// Whether it is what Go calls a zero value: kube-proxy puts its default in the place of most.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) | Self::Int(0) | Self::Duration(0) => true,
            Self::Number(number) => *number == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Map(entries) => entries.is_empty(),
            Self::Any(json) => is_zero_json(json),
            _ => false,
        }
    }

    /// As it stands in JSON.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::from(*value),
            Self::Int(value) => Json::from(*value),
            Self::Number(value) if value.fract() == 0.0 => Json::from(*value as i64),
            Self::Number(value) => Json::from(*value),
            Self::Duration(nanos) => Json::from(go_duration(*nanos)),
            Self::Text(text) => Json::from(text.as_str()),
            Self::List(items) => Json::from(items.clone()),
            Self::Map(entries) => {
                // Feature gates are booleans.
                let value = |text: &String| {
                    text.parse::<bool>().map_or(Json::from(text.as_str()), Json::from)
                };
                entries.iter().map(|(name, text)| (name.clone(), value(text))).collect()
            }
            Self::Any(json) => json.clone(),
        }
    }

    /// For people; `-` is nothing.
    pub fn to_text(&self) -> String {
        let shown = match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => items.join(","),
            Self::Map(entries) => {
                let entries = entries.iter().map(|(name, value)| format!("{name}={value}"));
                entries.collect::<Vec<_>>().join(",")
            }
            Self::Null | Self::Any(Json::Null) => String::new(),
            Self::Any(Json::String(text)) => text.clone(),
            other => match other.to_json() {
                Json::String(text) => text,
                json => json.to_string(),
            },
        };
        if shown.is_empty() { "-".to_owned() } else { shown }
    }
}

fn is_zero_json(json: &Json) -> bool {
    match json {
        Json::Null => true,
        Json::Bool(value) => !value,
        // Quantities are written as texts.
        Json::String(text) => text.is_empty() || text == "0",
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::Array(items) => items.is_empty(),
        Json::Object(entries) => entries.values().all(is_zero_json),
    }
}

/// YAML 1.1's words for booleans, which kube-proxy's reader takes.
fn word(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "y" | "t" | "1" => Some(true),
        "false" | "off" | "no" | "n" | "f" | "0" => Some(false),
        _ => None,
    }
}

fn texts(items: &[Located]) -> Result<Vec<String>, String> {
    let text = |item: &Located| match &item.node {
        Node::Text(text) => Ok(text.clone()),
        _ => Err("write a list of texts".to_owned()),
    };
    items.iter().map(text).collect()
}

/// A duration as Go's `ParseDuration` takes it, in nanoseconds.
fn duration(text: &str) -> Result<i64, String> {
    let wrong = || format!("write {}", Shape::Duration.expects());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanos = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        let unit = UNITS.iter().find(|(unit, _)| rest[end..].starts_with(unit));
        let (unit, length) = unit.ok_or_else(wrong)?;
        nanos += number * *length as f64;
        rest = &rest[end + unit.len()..];
    }
    if nanos >= i64::MAX as f64 {
        return Err("write a shorter duration: Go's end at 292 years".into());
    }
    let nanos = nanos.round() as i64;
    Ok(if negative { -nanos } else { nanos })
}

/// A duration as Go's `String` writes it.
fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let duration = Duration::from_nanos(nanos.unsigned_abs());
    if duration.is_zero() {
        return "0s".into();
    }
    if duration.as_secs() == 0 {
        let (unit, length) = match nanos.unsigned_abs() {
            1..=999 => ("ns", 1.0),
            1000..=999_999 => ("µs", 1e3),
            _ => ("ms", 1e6),
        };
        return format!("{sign}{}{unit}", nanos.unsigned_abs() as f64 / length);
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = (duration.as_secs() % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, shown) in [
            ("0s", "0s"),
            ("0", "0s"),
            ("30s", "30s"),
            ("1h0m0s", "1h0m0s"),
            ("24h", "24h0m0s"),
            ("1.5h", "1h30m0s"),
            ("1h30m1.5s", "1h30m1.5s"),
            ("90s", "1m30s"),
            ("250ms", "250ms"),
            ("15us", "15µs"),
            ("-5s", "-5s"),
        ] {
            let value = Shape::Duration.read_text(text).unwrap();
            assert_eq!(value.to_text(), shown, "{text}");
        }
        for wrong in ["", "5", "s", "5x", "1h5", "-", "1..5s", "9999999h"] {
            assert!(Shape::Duration.read_text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_are_read_by_shape_and_what_is_wrong_says_what_is_right() {
        assert_eq!(Shape::Bool.read_text("true"), Ok(Value::Bool(true)));
        assert_eq!(Shape::Switch.read_text("off"), Ok(Value::Bool(false)));
        assert!(Shape::Switch.read_text("maybe").unwrap_err().contains("on or off"));
        let bits = Shape::Int(0, 31);
        assert_eq!(bits.read_text("14"), Ok(Value::Int(14)));
        assert!(bits.read_text("32").unwrap_err().contains("from 0 to 31"));
        assert!(bits.read_text("x").is_err());
        assert!(Shape::Number.read_text("inf").is_err());
        let list = Value::List(vec!["a".into(), "b".into()]);
        assert_eq!(Shape::List.read_text("a, b"), Ok(list));
        assert!(Shape::Map.read_text("a").is_err());
        assert_eq!(Shape::Map.read_text("A=true").unwrap().to_json()["A"], true);
    }
}
