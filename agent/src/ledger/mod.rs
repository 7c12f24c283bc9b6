//! The ledger: identity, votes, certificate and the state of k3s's data, in one file that is whole or an error.

mod record;
mod store;
#[cfg(test)]
mod tests;

pub use record::{Data, Fold, Record, RecoveryStep, Remembered};
#[cfg(any(test, fuzzing))]
pub(crate) use store::fuzz::ledger as fuzz;
pub use store::{Ledger, LedgerError, peek};
