//! Founding: a cluster exists when its birth certificate has been chosen by single-decree Paxos with `founders` votes.
//!
//! ```text
//!  gather --> nominate --> promises --> provisional cluster --> propose --> votes (after a live check) --> chosen
//!                 ^            |                                               |
//!                 +-- overtaken, or the nominee is gone -----------------------+
//! ```
//!
//! [`judge`] is the whole of it, pure; [`quorum`] holds the arithmetic.

mod ballot;
pub mod quorum;
mod rule;
mod terms;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use ballot::{Accepted, Annulment, Ballot, Certificate, Parameters, Proposal, Register, Shared};
pub use rule::judge;
pub use terms::{Judgement, LiveCheck, Move, Other, Own, Terms};
