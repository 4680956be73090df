//! The door to a Kubernetes API server: [`client`] reaches it, [`watch`] follows Services,
//! EndpointSlices, ServiceCIDRs and the own Node.
//!
//! What comes in: lists and watch streams, filtered by the server as kube-proxy asks for them. What
//! goes out: [`super::Event`]s. In between: [`decode`] turns one object's text into a slim type, so
//! that an object that cannot be read costs itself alone; [`failure`] says what a failed request
//! means and what to do about it, [`pauses`] how long to wait then; [`rights`] is all that is ever
//! asked of the server; [`report`] tells people, without repeating itself.
//!
//! Why not `kube::runtime::watcher`, whose states these are: its list decodes all objects or none
//! (one bad object would mean relisting for ever), it does not tell that a broken watch works again
//! before the next object changes, and it reopens a watch that ends at once without any pause.

mod client;
mod decode;
mod failure;
mod pauses;
mod report;
pub mod rights;
mod watch;

pub use client::{KubeConfig, SERVICE_ACCOUNT_DIR, client};
pub use watch::{Timing, watch, watch_with};
