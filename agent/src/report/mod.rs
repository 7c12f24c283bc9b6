//! What people and programs see: the status file, its table, the reasons, the log.

pub mod log;
pub mod status;
mod table;

pub use status::{Fixed, Passed, Status, StatusK3s, StatusNode, StatusPeer, Timeline};
pub use table::{status_table, why_text};
