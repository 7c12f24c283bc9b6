//! What people and programs see: the status file, its table, the reasons, the log, the decisions, the metrics.

pub mod decisions;
pub mod log;
pub mod metrics;
pub mod status;
mod table;

pub use status::{Fixed, Passed, Status, StatusDecisions, StatusK3s, StatusNode, StatusPeer, Timeline};
pub use table::{columns, status_table, why_text};
