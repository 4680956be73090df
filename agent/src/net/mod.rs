//! The door to the node's network: its devices with their addresses and default routes
//! ([`devices`]), the cookie that tells its sockets from its pods' ([`cookie`]), and the ports that
//! it gives to sockets ([`ports`]), and filters on devices ([`traffic_control`]).

pub mod cookie;
pub mod devices;
pub mod ports;
pub mod traffic_control;
