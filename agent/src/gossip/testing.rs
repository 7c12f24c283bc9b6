//! What the tests of gossip share.

use ring::signature::Ed25519KeyPair;

use super::claim::{Claim, Fitness, Role, WantedRole};
use super::signed::Signer;
use crate::core::{NodeId, Phase};
use crate::founding::Parameters;

pub(crate) fn signer(seed: u8) -> Signer {
    Signer::new(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("32 bytes"))
}

pub(crate) fn parameters() -> Parameters {
    let text = |text: &str| text.to_owned();
    Parameters([(text("servers"), text("3")), (text("k3s.cluster-cidr"), text("10.42.0.0/16"))].into())
}

pub(crate) fn claim(owner: &NodeId, generation: u64, counter: u64) -> Claim {
    Claim {
        v: 1,
        owner: owner.clone(),
        generation,
        counter,
        name: format!("node-{}", owner.short()),
        address: [10, 0, 0, 1].into(),
        wants: WantedRole::Auto,
        eligible: true,
        fitness: Fitness { class: 2 },
        parameters: parameters().hash(),
        era: 1,
        register: None,
        proposal: None,
        certificate: None,
        annulment: None,
        recovery: None,
        fenced: false,
        phase: Phase::Seeking,
        role: Role::Undecided,
        voter: None,
        api: None,
        ready: None,
        zone: String::new(),
        marks: crate::identity::Marks::default(),
        why: "".into(),
    }
}

/// Another node at an address.
#[cfg(test)]
pub(crate) fn peer(seed: u8, address: std::net::IpAddr, live: bool) -> super::Peer {
    let claim = Claim { address, ..claim(signer(seed).node_id(), 1, 1) };
    super::Peer {
        claim: claim.into(),
        parameters: None,
        live,
        gossip_address: std::net::SocketAddr::new(address, 7846),
    }
}
