//! What this machine shares with another live one: the marks in its claim, and the word on equal ones.

use std::net::IpAddr;
use std::path::Path;

use super::start::fingerprint;
use crate::config::Settings;
use crate::core::Why;
use crate::edge::fs;
use crate::gossip::PeerView;
use crate::host::{Tree, container};
use crate::identity::marks::Shared;
use crate::identity::{Fingerprint, MarkKey, Marks};

/// This machine's marks. In a container the maker's uuid is that of the machine outside, which others there rightly share.
pub(super) fn marks(settings: &Settings, interface: &str) -> Marks {
    let seen = fingerprint();
    let product_uuid = seen.product_uuid.filter(|_| container(&Tree::new(Path::new("/"))).is_absent());
    let mac = fs::known_text(&Path::new("/sys/class/net").join(interface).join("address"));
    let key = MarkKey::derive(&settings.cluster, &settings.token);
    Marks::of(&key, &Fingerprint { product_uuid, ..seen }, mac.yes().map(String::as_str))
}

/// One reason for each thing that is shared. A node at this node's own address is what this machine was before it was
/// imaged again: two machines at one address could not both be heard.
pub(super) fn alike(own: &Marks, address: IpAddr, view: &PeerView) -> Vec<Why> {
    let others = view.peers.values().filter(|peer| peer.live && peer.claim.address != address);
    let shared = own.shared(others.map(|peer| (peer.claim.name.as_str(), &peer.claim.marks)));
    let reason = |(what, names): (Shared, Vec<&str>)| {
        let with = names.join(", ");
        match what {
            Shared::MachineId => Why::new(
                "machine-id-shared",
                format!(
                    "{with} has the machine-id of this machine: one was copied from the other, or both from one image"
                ),
                "on all but one: rm /etc/machine-id, systemd-machine-id-setup, reboot; empty it in the image",
            ),
            Shared::ProductUuid => Why::new(
                "product-uuid-shared",
                format!("{with} has the maker's uuid of this machine"),
                "give the copied virtual machine a uuid of its own; while machine-ids differ nothing else is needed",
            ),
            Shared::HardwareAddress => Why::new(
                "hardware-address-shared",
                format!("{with} has the hardware address of this machine's interface"),
                "give each machine one of its own: in one network they lose each other's packets",
            ),
        }
    };
    shared.into_iter().map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::testing;

    #[test]
    fn live_nodes_with_equal_marks_are_named_on_both_sides_and_a_former_self_is_not() {
        let marks = |id, mac| Marks { id: Some(id), uuid: None, mac: Some(mac) };
        let (here, there): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let view = |own: Marks, address: IpAddr, live: bool| {
            let mut view = PeerView::default();
            let mut peer = testing::peer(7, address, live);
            peer.claim_mut().marks = own;
            peer.claim_mut().name = "node2".into();
            view.peers.insert(peer.claim.owner.clone(), peer);
            view
        };
        let rules = |own: &Marks, at: IpAddr, view: &PeerView| -> Vec<String> {
            alike(own, at, view).into_iter().map(|why| why.rule.into_owned()).collect()
        };
        let (a, b) = (marks(1, 2), marks(1, 3));
        assert_eq!(rules(&a, here, &view(b, there, true)), ["machine-id-shared"]);
        assert_eq!(rules(&b, there, &view(a, here, true)), ["machine-id-shared"]);
        assert_eq!(rules(&a, here, &view(a, there, true)), ["machine-id-shared", "hardware-address-shared"]);
        assert!(rules(&a, here, &view(a, there, false)).is_empty(), "it is silent");
        assert!(rules(&a, here, &view(a, here, true)).is_empty(), "it is what this machine was");
        assert!(rules(&a, here, &view(Marks::default(), there, true)).is_empty(), "an older version");
        let said = alike(&a, here, &view(b, there, true));
        assert!(said[0].detail.starts_with("node2 has the machine-id of this machine"), "{said:?}");
    }
}
