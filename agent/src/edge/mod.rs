//! The outside: files, processes, the clock and chance. The only modules that may touch them, beside the `probe.rs` files
//! and the few others that own a socket or a store.

pub mod clock;
pub mod exec;
pub mod fs;
pub mod http;
pub mod lines;
pub mod link;
pub mod netif;
mod openrc;
pub mod path;
pub mod serve;
pub mod sockets;
pub mod systemd;
pub mod web;
