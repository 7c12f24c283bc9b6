//! Muster: identical machines become one highly available k3s cluster, and stay one.
//!
//! One tick of the agent:
//!
//! ```text
//! probe the world --> Observed --> decide (pure) --> Plan --> perform --> Report --> status, log
//!       ^                                                       |
//!       +------------------- world changed, or a deadline ------+
//! ```
//!
//! Deciding touches no socket, file, clock or dice. The truth is on disk and in other nodes; memory is a cache. Unknown is
//! never taken for absent. A crash between any two lines is an ordinary event.

pub mod cli;
pub mod config;
pub mod core;
pub mod decide;
pub mod discovery;
pub mod edge;
pub mod engine;
pub mod founding;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gossip;
pub mod heal;
pub mod host;
pub mod identity;
pub mod image;
pub mod k3s;
pub mod ledger;
pub mod report;
