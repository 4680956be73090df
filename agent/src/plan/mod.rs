//! From the model to operations on maps. Pure: no I/O, no clock, no async.

pub mod op;
