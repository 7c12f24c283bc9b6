//! Evidence of every server, combined into a verdict. Several witnesses must agree before a server is called dead; what is
//! not known is a verdict of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::{HealSeen, NodeSeen, Reach};
use crate::core::recovery::number;
use crate::core::{ClusterId, Known, NodeId, Phase};
use crate::decide::MemberSeen;
use crate::gossip::{Claim, Peer, Role};

/// What is thought of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It serves.
    Healthy,
    /// The witnesses disagree.
    Suspect,
    /// Gossip, the direct question and Kubernetes agree: it does not serve.
    Dead,
    /// Its machine is gone for good: terminated, or another machine stands in its place.
    Gone,
    /// A live server that is not, or no longer, a member.
    Returned,
    /// A live machine of this cluster that says it votes, and is not in this node's list of members: one list is old, or there
    /// are two.
    Stranger,
    /// Another live machine has its name, and it lives itself.
    Impostor,
    /// Too little is known.
    Unknown,
}

impl Verdict {
    /// The word printed for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Healthy => "healthy",
            Verdict::Suspect => "suspect",
            Verdict::Dead => "dead",
            Verdict::Gone => "gone",
            Verdict::Returned => "returned",
            Verdict::Stranger => "stranger",
            Verdict::Impostor => "impostor",
            Verdict::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What the witnesses say of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Whether its machine is live in gossip; none when it was never heard.
    pub gossip: Option<bool>,
    /// What a direct question brought; none when it was not asked.
    pub reach: Option<Reach>,
    /// Its Node's Ready condition; absent when there is no such Node.
    pub node: Known<bool>,
    /// Whether its etcd member votes; none when it has none.
    pub votes: Option<bool>,
    /// Who said that its machine is terminated.
    pub terminated: Option<String>,
    /// The live machine that stands in its place, or its own word that it is no server any more.
    pub replaced: Option<String>,
}

impl Evidence {
    /// One line per witness, for people and the decision log.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            match self.gossip {
                Some(true) => "gossip: live".to_owned(),
                Some(false) => "gossip: silent".to_owned(),
                None => "gossip: never heard".to_owned(),
            },
            match self.reach {
                Some(Reach::Answers) => "asked directly: answers".to_owned(),
                Some(Reach::Refuses) => "asked directly: nothing listens".to_owned(),
                Some(Reach::Silent) => "asked directly: no answer".to_owned(),
                None => "asked directly: not yet".to_owned(),
            },
            match &self.node {
                Known::Yes(true) => "Kubernetes: Ready".to_owned(),
                Known::Yes(false) => "Kubernetes: not Ready".to_owned(),
                Known::Absent => "Kubernetes: no such Node".to_owned(),
                Known::Unknown(unread) => format!("Kubernetes: {}", unread.cause),
            },
            match self.votes {
                Some(true) => "etcd: voter".to_owned(),
                Some(false) => "etcd: learner".to_owned(),
                None => "etcd: no member".to_owned(),
            },
        ];
        lines.extend(self.terminated.iter().map(|by| format!("terminated: {by}")));
        lines.extend(self.replaced.iter().map(|by| format!("replaced: {by}")));
        lines
    }
}

/// A server with its verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Its name.
    pub name: String,
    /// Its address, as far as known.
    pub address: Option<IpAddr>,
    /// The verdict.
    pub verdict: Verdict,
    /// What it rests on.
    pub evidence: Evidence,
}

/// This node, which needs no witness of itself.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// Its identity.
    pub id: &'a NodeId,
    /// Its name.
    pub name: &'a str,
}

/// Judges every member, and every live server that is none.
#[must_use]
pub fn judge(
    own: Own<'_>,
    members: &[MemberSeen],
    peers: &BTreeMap<NodeId, Peer>,
    seen: &HealSeen,
) -> Vec<Judged> {
    let mut judged: Vec<Judged> = members.iter().map(|member| of_member(own, member, peers, seen)).collect();
    let listed = |name: &str| members.iter().any(|member| member.node == name);
    for peer in peers.values().filter(|peer| peer.live && peer.claim.role == Role::Server) {
        let claim = &peer.claim;
        if listed(&claim.name) {
            continue;
        }
        judged.push(Judged {
            name: claim.name.clone(),
            address: Some(claim.address),
            verdict: if claim.voter == Some(true) { Verdict::Stranger } else { Verdict::Returned },
            evidence: Evidence {
                gossip: Some(true),
                reach: seen.reach.get(&claim.address).copied(),
                node: Known::Absent,
                votes: None,
                terminated: None,
                replaced: None,
            },
        });
    }
    judged
}

/// Live servers of this certificate that say they vote and are not in this server's own list: one list is old, or there are two
/// clusters. Servers of the time before a recovery (`recovery` is the number that this node knows) are none: they are given up.
pub fn strangers<'a>(
    members: &'a [MemberSeen],
    peers: &'a BTreeMap<NodeId, Peer>,
    cluster: &'a ClusterId,
    recovery: u64,
) -> impl Iterator<Item = &'a str> {
    let ours = |claim: &&Claim| claim.certificate.as_ref().is_some_and(|one| one.cluster_id == *cluster);
    peers
        .values()
        .filter(|peer| peer.live)
        .map(|peer| &*peer.claim)
        .filter(move |claim| ours(claim) && number(claim.recovery.as_ref()) >= recovery)
        .filter(|claim| claim.role == Role::Server && claim.voter == Some(true))
        .map(|claim| claim.name.as_str())
        .filter(|name| members.iter().all(|member| member.node != *name))
}

fn of_member(own: Own<'_>, member: &MemberSeen, peers: &BTreeMap<NodeId, Peer>, seen: &HealSeen) -> Judged {
    let node = seen.nodes.yes().and_then(|nodes| nodes.iter().find(|node| node.name == member.node));
    let identity = node.and_then(|node| node.identity.as_deref());
    // Whose machine the member was: by the identity on its Node, or else by the name and the place that gossip knows.
    let was = |claim: &Claim| match identity {
        Some(identity) => claim.owner.as_str() == identity,
        None => claim.name == member.node && member.address.is_none_or(|address| address == claim.address),
    };
    let mine = member.node == own.name && identity.is_none_or(|identity| identity == own.id.as_str());
    let of_it: Vec<&Peer> = peers.values().filter(|peer| was(&peer.claim)).collect();
    let gossip = if mine {
        Some(true)
    } else if of_it.is_empty() {
        None
    } else {
        Some(of_it.iter().any(|peer| peer.live))
    };
    // The youngest identity of a name and place without a mark may be the machine that took it over: it says so by its phase.
    let another = |peer: &&Peer| peer.live && !was(&peer.claim);
    let in_place = peers.values().filter(another).find(|peer| member.address == Some(peer.claim.address));
    let same_name = peers.values().filter(another).find(|peer| peer.claim.name == member.node);
    let reach = member.address.and_then(|address| seen.reach.get(&address).copied());
    // The owner's signed word is the best witness: a machine that lost its data, or has another address, says so itself.
    let confessed = of_it
        .iter()
        .filter(|_| identity.is_some())
        .find(|peer| peer.live && peer.claim.role != Role::Server)
        .map(|_| "the machine itself says that it holds no server's data any more".to_owned());
    // Where no Node bears a mark, every living machine of that name and place must say so.
    let living = || of_it.iter().filter(|peer| peer.live).map(|peer| &*peer.claim);
    let nobodys = matches!(seen.nodes, Known::Yes(_))
        && node.is_none()
        && living().any(|claim| claim.why == "name-held");
    let waits =
        nobodys && !mine && living().all(|claim| claim.role != Role::Server || claim.phase == Phase::Joining);
    let confessed = confessed.or_else(|| {
        waits.then(|| "the machine of that name and place says that it waits for its name".to_owned())
    });
    let replaced = in_place
        .filter(|_| identity.is_some())
        .map(|peer| format!("{} at {} is another machine", peer.claim.name, peer.claim.address));
    let evidence = Evidence {
        gossip,
        reach,
        node: node_ready(seen, node),
        votes: Some(!member.learner),
        terminated: member.address.and_then(|address| seen.terminated.get(&address).cloned()),
        replaced: replaced.filter(|_| gossip != Some(true)).or(confessed),
    };
    let impostor = same_name.is_some() && gossip == Some(true) && !mine && identity.is_some();
    Judged {
        name: member.node.clone(),
        address: member.address,
        verdict: if mine { Verdict::Healthy } else { verdict(&evidence, impostor) },
        evidence,
    }
}

fn node_ready(seen: &HealSeen, node: Option<&NodeSeen>) -> Known<bool> {
    match (&seen.nodes, node) {
        (Known::Yes(_), Some(node)) => node.ready.clone(),
        (Known::Yes(_), None) => Known::Absent,
        (Known::Absent, _) => Known::unknown("the servers' Nodes", "not listed"),
        (Known::Unknown(unread), _) => Known::Unknown(unread.clone()),
    }
}

/// Whether a Node's kubelet is silent, by Kubernetes' own word. One that is merely not Ready may be new: registered a moment ago by
/// the machine that took the name over.
#[must_use]
pub fn is_left_behind(ready: &Known<bool>) -> bool {
    matches!(ready, Known::Unknown(unread) if unread.what == "the Ready condition")
}

/// The rule over the witnesses. Kubernetes calls a silent kubelet's condition `Unknown`: that is its word that it does not know the
/// Node to be well, and agrees with the others; a list of Nodes that could not be read agrees with nothing.
fn verdict(evidence: &Evidence, impostor: bool) -> Verdict {
    if impostor {
        return Verdict::Impostor;
    }
    let answers = evidence.reach == Some(Reach::Answers);
    let silent = matches!(evidence.reach, Some(Reach::Silent | Reach::Refuses));
    if evidence.replaced.is_some() && !answers {
        return Verdict::Gone;
    }
    if evidence.terminated.is_some() && !answers && evidence.gossip != Some(true) {
        return Verdict::Gone;
    }
    let not_ready = match &evidence.node {
        Known::Yes(ready) => Some(!ready),
        Known::Absent => Some(true),
        unknown if is_left_behind(unknown) => Some(true),
        Known::Unknown(_) => None,
    };
    match (evidence.gossip, silent, answers, not_ready) {
        (Some(true), false, _, Some(false)) => Verdict::Healthy,
        (Some(false) | None, true, _, Some(true)) => Verdict::Dead,
        (Some(false) | None, false, false, _) | (_, _, _, None) => Verdict::Unknown,
        _ => Verdict::Suspect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(gossip: Option<bool>, reach: Option<Reach>, node: Known<bool>) -> Evidence {
        Evidence { gossip, reach, node, votes: Some(true), terminated: None, replaced: None }
    }

    #[test]
    fn all_witnesses_must_agree_on_a_death() {
        use Reach::{Answers, Refuses, Silent};
        let lost = || Known::unknown("the Ready condition", "NodeStatusUnknown");
        let unread = || Known::unknown("the servers' Nodes", "no answer");
        let cases = [
            (Some(true), Some(Answers), Known::Yes(true), Verdict::Healthy),
            // Not asked yet, and everything else is well.
            (Some(true), None, Known::Yes(true), Verdict::Healthy),
            (Some(false), Some(Silent), lost(), Verdict::Dead),
            (Some(false), Some(Silent), Known::Yes(false), Verdict::Dead),
            (Some(false), Some(Refuses), lost(), Verdict::Dead),
            (None, Some(Silent), lost(), Verdict::Dead),
            (Some(false), Some(Silent), Known::Absent, Verdict::Dead),
            // Any one witness for life.
            (Some(false), Some(Answers), lost(), Verdict::Suspect),
            (Some(true), Some(Silent), lost(), Verdict::Suspect),
            (Some(false), Some(Silent), Known::Yes(true), Verdict::Suspect),
            (Some(true), Some(Answers), Known::Yes(false), Verdict::Suspect),
            // Unknown is never death.
            (Some(false), Some(Silent), unread(), Verdict::Unknown),
            (Some(false), None, lost(), Verdict::Unknown),
            (None, None, unread(), Verdict::Unknown),
        ];
        for (gossip, reach, node, wanted) in cases {
            let evidence = evidence(gossip, reach, node);
            assert_eq!(verdict(&evidence, false), wanted, "{evidence:?}");
        }
    }

    #[test]
    fn only_a_node_that_kubernetes_does_not_hear_is_left_behind() {
        assert!(is_left_behind(&Known::unknown("the Ready condition", "NodeStatusUnknown")));
        let others = [
            Known::Yes(true),
            // A Node's first seconds.
            Known::Yes(false),
            Known::Absent,
            Known::unknown("node node3", "no answer"),
        ];
        for ready in others {
            assert!(!is_left_behind(&ready), "{ready:?}");
        }
    }

    #[test]
    fn a_machine_that_is_terminated_or_replaced_is_gone_unless_it_speaks() {
        let mut gone = evidence(Some(false), Some(Reach::Silent), Known::Yes(true));
        gone.terminated = Some("aws".into());
        assert_eq!(verdict(&gone, false), Verdict::Gone);
        gone.reach = Some(Reach::Answers);
        assert_eq!(verdict(&gone, false), Verdict::Suspect, "it still answers");
        let mut replaced = evidence(Some(false), Some(Reach::Refuses), Known::Yes(true));
        replaced.replaced = Some("node3 at 10.0.0.3".into());
        assert_eq!(verdict(&replaced, false), Verdict::Gone);
        replaced.reach = Some(Reach::Answers);
        assert_eq!(verdict(&replaced, false), Verdict::Suspect);
    }
}
