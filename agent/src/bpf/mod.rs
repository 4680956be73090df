//! The door to the kernel's maps, programs and links: the only place that names `aya` or `bpf(2)`.
//!
//! [`environment`] finds what is needed and says what is missing; [`pins`] is the layout under
//! bpffs; [`object`] loads the programs; [`attach`] links them to hooks without ever leaving one
//! empty; [`store`] writes and reads the rows, [`flows`] those that packets leave; [`sys`] is the part
//! of `bpf(2)` that aya lacks; [`inventory`] lists what the kernel holds of all owners.

pub mod attach;
pub mod environment;
pub mod flows;
pub mod inventory;
#[cfg(feature = "bpf-log")]
mod log;
pub mod object;
pub mod pins;
pub mod store;
pub mod sys;
