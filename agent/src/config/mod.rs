//! The operator's configuration: kube-proxy's file and flags, and our own.
//!
//! [`catalogue`] is the table of all settings. [`decode`] reads a file by it, [`merge`] lays
//! defaults, file, environment and flags one over the other, [`resolve`] validates and gives types:
//! out comes an [`Effective`] and what is to be said about it ([`finding`]). All that is pure.
//! [`flags`] makes the command line of it, [`file`] reads and [`watch`] follows the file; [`print`]
//! explains every setting.

pub mod catalogue;
pub mod decode;
pub mod effective;
pub mod file;
pub mod finding;
pub mod flags;
pub mod merge;
pub mod print;
pub mod resolve;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod value;
pub mod watch;

pub use self::effective::{Effective, Source};
pub use self::resolve::resolve;
