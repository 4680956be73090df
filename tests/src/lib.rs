//! What the tests, the demo and the laboratory share.
//!
//! A test tells one story with these pieces, in this order: build a cluster out of network
//! namespaces ([`lab`]), write Kubernetes objects into the nodes' directories ([`manifest`]), run
//! an agent on each node ([`agent`]), put servers into pods and dial them ([`probe`]), in a loop
//! while something happens ([`load`]), and wait for a condition instead of sleeping ([`wait`]).
//! [`wire`] is for packets that no socket sends or sees.
//!
//! [`apiserver`] is a Kubernetes API for the tests of the agent's source; [`hooks`] asks the kernel
//! what is attached to devices; [`http`] asks what a node says of itself. [`packet`] is for those
//! of the packet path that need no network: frames in, verdicts and frames out; [`simulation`] puts
//! the agent's pure half before it: objects in, verdicts out.
//!
//! Nothing else here knows how the agent works: it is started as an operator starts it, and judged
//! by what sockets see.

pub mod agent;
pub mod apiserver;
pub mod hooks;
pub mod http;
pub mod lab;
pub mod load;
pub mod manifest;
pub mod packet;
pub mod privileges;
pub mod probe;
pub mod scrape;
pub mod simulation;
pub mod wait;
pub mod wire;
pub mod world;
