//! Small values for tests of founding.

use std::sync::Arc;

use super::{Ballot, Certificate, Parameters};
use crate::core::{CaHash, ClusterId, NodeId};

pub(crate) fn id(n: u8) -> NodeId {
    NodeId::from_digest(&[n; 32])
}

pub(crate) fn ballot(counter: u64, node: u8) -> Ballot {
    Ballot { counter, node: id(node) }
}

pub(crate) fn certificate(founder: u8) -> Arc<Certificate> {
    Arc::new(Certificate {
        cluster_id: ClusterId::from_digest(&[founder; 32]),
        era: 1,
        ca_hash: CaHash::from_digest(&[founder; 32]),
        founder: id(founder),
        founder_name: format!("node{founder}"),
        founder_address: [10, 0, 0, founder].into(),
        first_servers: vec![id(founder)],
        parameters_hash: Parameters::default().hash(),
    })
}
