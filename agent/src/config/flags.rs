//! The command line of `millrace run` and of `millrace config`, made of the catalogue.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::catalogue::{self, Document, Field, Flag};
use super::merge::GivenFlag;
use super::value::Shape;

/// The flags that were given.
#[derive(Clone, Debug, Default)]
pub struct ConfigFlags {
    /// Each with its values, in the order of the catalogue.
    pub given: Vec<GivenFlag>,
}

/// Every flag once, with the setting that describes it.
pub fn all() -> BTreeMap<&'static str, (&'static Field, &'static Flag)> {
    let mut all = BTreeMap::new();
    for field in catalogue::fields() {
        for flag in field.flags {
            all.entry(flag.name).or_insert((field, flag));
        }
    }
    all
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |name: &'static str| {
            let values = matches.get_many::<String>(name)?;
            Some(GivenFlag { name, values: values.cloned().collect() })
        };
        Ok(Self { given: all().into_keys().filter_map(value).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        command.args(all().into_values().map(|(field, flag)| argument(field, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(field: &'static Field, flag: &'static Flag) -> Arg {
    let long = flag.name.trim_start_matches('-');
    let own = matches!(field.document, Document::Millrace) || flag.name == "--node-name";
    let heading = if own { "Settings" } else { "kube-proxy's flags" };
    let argument = Arg::new(flag.name)
        .long(long)
        .help(help(field))
        .help_heading(heading)
        .action(ArgAction::Append)
        .allow_hyphen_values(matches!(field.shape, Shape::Int(..)))
        .value_name(value_name(field.shape));
    match field.shape {
        // As Go's flags: alone, or with `=`.
        Shape::Bool => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ if flag.name == "--v" => argument.short('v').num_args(1),
        _ => argument.num_args(1),
    }
}

fn help(field: &Field) -> String {
    let env = field.env.map_or_else(String::new, |name| format!(" [environment: {name}]"));
    let default = match field.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let word = match field.effect {
        catalogue::Effect::Ignored => "Ignored: ",
        _ => "",
    };
    format!("{word}{}{env}{default}", field.here)
}

const fn value_name(shape: Shape) -> &'static str {
    match shape {
        Shape::Bool => "true|false",
        Shape::Switch => "on|off",
        Shape::Int(..) | Shape::Number => "NUMBER",
        Shape::Duration => "DURATION",
        Shape::Text | Shape::Any => "TEXT",
        Shape::List => "ITEM,...",
        Shape::Map => "NAME=VALUE,...",
    }
}
