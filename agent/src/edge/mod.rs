//! The outside: files, processes, the clock and chance. The only modules that may touch them, beside the `probe.rs` files
//! and the few others that own a socket or a store.

pub mod clock;
pub mod exec;
pub mod fs;
pub mod http;
pub mod link;
pub mod netif;
pub mod systemd;
