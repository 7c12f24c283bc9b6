//! Founding: a cluster exists when its birth certificate has been chosen by single-decree Paxos with `founders` votes.

mod ballot;

pub use ballot::{Accepted, Annulment, Ballot, Certificate, Parameters, Proposal, Register};
