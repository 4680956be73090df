//! Shared parts of the tests: one test file per behaviour uses them.

pub mod apiserver;
