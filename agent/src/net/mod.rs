//! The door to the node's network: its addresses ([`addresses`]) and the cookie that tells its
//! sockets from its pods' ([`cookie`]).

pub mod addresses;
pub mod cookie;
