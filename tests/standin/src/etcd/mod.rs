//! The real etcd under the stand-in: its process, and a client of its JSON gateway.

mod client;
mod process;

pub use client::{Client, Entry, Member};
pub use process::{Exit, Member as Process, Plan};
