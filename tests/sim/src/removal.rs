//! What must hold whenever a member is removed, judged by what is truly so and no agent sees.

use std::time::Duration;

use crate::k3s::Member;
use crate::machine::{Crash, Data};
use crate::world::World;

/// For how long nobody can be blamed for not having noticed yet: gossip takes a machine for dead after six seconds, and k3s is looked at
/// every four.
const UNNOTICED: Duration = Duration::from_secs(15);

/// Why a Node is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// Its server is called dead, or gone.
    Dead,
    /// One server too many.
    Surplus,
    /// A machine that leaves.
    Leaves,
    /// A new machine asks for its name.
    Newcomer,
    /// Its member has no Node.
    Nodeless,
}

impl Removal {
    /// The word printed for it.
    pub fn word(self) -> &'static str {
        match self {
            Removal::Dead => "remove",
            Removal::Surplus => "demote",
            Removal::Leaves => "leave",
            Removal::Newcomer => "remove-newcomers-node",
            Removal::Nodeless => "remove-member",
        }
    }
}

impl World {
    /// Counts a point of a remedy and crashes there, if that was planned.
    pub fn heal_point(&mut self, number: u8) -> bool {
        let Some(heals) = &mut self.heals else { return false };
        if !heals.begun {
            return false;
        }
        heals.points += 1;
        let crash = heals.crash_at.filter(|(at, _)| *at == heals.points).map(|(_, crash)| crash);
        if let Some(crash) = crash {
            self.coverage.fault(if crash == Crash::Power { "healer-loses-power" } else { "healer-dies" });
            self.stop(number, crash);
        }
        crash.is_some()
    }

    /// Whether a member serves now: it votes, runs, and sees a majority.
    pub fn serves(&self, cluster: usize, member: &Member) -> bool {
        let data = self.machines[usize::from(member.number) - 1].disk.data;
        data == Data::Server { cluster, member: member.id } && self.api(member.number) == Some(cluster)
    }

    /// Follows who truly serves.
    pub fn follow(&mut self) {
        let now = self.now;
        let mut serving = Vec::new();
        for (cluster, etcd) in self.etcds.iter().enumerate() {
            serving.extend(etcd.members.iter().filter(|m| self.serves(cluster, m)).map(|m| m.number));
        }
        for machine in &mut self.machines {
            if serving.contains(&machine.number) {
                machine.healer.served = Some(now);
                machine.healer.serves_since.get_or_insert(now);
            } else {
                machine.healer.serves_since = None;
            }
        }
        let Some(target) = self.wanted() else { return };
        let voters: usize =
            self.etcds.iter().map(|etcd| etcd.members.iter().filter(|m| !m.learner).count()).sum();
        if let Some(heals) = &mut self.heals
            && serving.len() == target
            && voters == target
            && let Some(since) = heals.vacant_since.take()
        {
            heals.filled_ms.push((now.saturating_sub(since)).as_millis() as u64);
        }
    }

    /// Wanted servers, by the settings of the machines that are there.
    pub fn wanted(&self) -> Option<usize> {
        let machine = self.machines.iter().find(|machine| !machine.gone)?;
        Some(self.settings[usize::from(machine.number) - 1].servers)
    }

    /// A learner has become a voter.
    pub fn voter_added(&mut self, cluster: usize) {
        let voters = self.etcds[cluster].members.iter().filter(|member| !member.learner).count();
        if let Some(heals) = &mut self.heals {
            heals.dead_removed = 0;
            heals.voters_then = voters;
        }
    }

    /// Two agents that may act at one time.
    pub fn two_healers(&self) -> Option<String> {
        let mut acting = self.machines.iter().filter(|machine| {
            machine.agent && machine.healer.told_until.is_some_and(|until| self.now + machine.leap < until)
        });
        let (first, second) = (acting.next()?, acting.next()?);
        Some(format!("node{} and node{} both act as the holder of the Lease", first.number, second.number))
    }

    /// Everything that must hold when a Node is about to be deleted.
    pub fn check_removal(&mut self, by: u8, cluster: usize, name: &str, kind: Removal) {
        let Some(node) = self.etcds[cluster].kube.nodes.get(name).cloned() else { return };
        let members = &self.etcds[cluster].members;
        let Some(member) = node.member.and_then(|id| members.iter().find(|member| member.id == id)).cloned()
        else {
            return;
        };
        if node.deleting.is_none() {
            self.check_member(by, cluster, &member, name, kind);
        }
    }

    /// The same, by the member.
    pub fn check_member(&mut self, by: u8, cluster: usize, member: &Member, name: &str, kind: Removal) {
        let members = &self.etcds[cluster].members;
        let now = self.now;
        let lately = |m: &Member| {
            let served = self.machines[usize::from(m.number) - 1].healer.served;
            served.is_some_and(|at| now.saturating_sub(at) <= UNNOTICED) || self.serves(cluster, m)
        };
        let voters: Vec<&Member> = members.iter().filter(|member| !member.learner).collect();
        let mut broken = None;
        if let Some(learner) = members.iter().find(|m| m.learner && m.id != member.id) {
            broken = Some(format!("{name} is removed while node{} is a learner", learner.number));
        }
        let machine = &self.machines[usize::from(member.number) - 1];
        if !member.learner {
            let living = voters.iter().filter(|m| m.id != member.id && lately(m)).count();
            let left = voters.len() - 1;
            let nodes = &self.etcds[cluster].kube.nodes;
            let goes = |m: &Member| nodes.values().any(|n| n.member == Some(m.id) && n.deleting.is_some());
            let stay = voters.iter().filter(|m| m.id != member.id && !goes(m));
            let (stay, well) = stay.fold((0, true), |(all, well), m| (all + 1, well && lately(m)));
            if left == 0 {
                broken = Some(format!("{name}, the last voter, is removed"));
            } else if 2 * living <= left {
                broken = Some(format!("{name} is removed, and {living} of the {left} others live"));
            }
            let wanted = self.settings[usize::from(by) - 1].servers;
            if kind == Removal::Surplus && voters.len() <= wanted {
                broken = Some(format!("{name} is demoted, and {} of {wanted} vote", voters.len()));
            }
            let quiet = matches!(kind, Removal::Dead | Removal::Newcomer | Removal::Nodeless);
            let serves = machine.healer.serves_since;
            if quiet && serves.is_some_and(|since| now.saturating_sub(since) > UNNOTICED) {
                broken = Some(format!("{name} is removed as dead, and it serves"));
            }
            let intact = !machine.gone
                && machine.at == member.at
                && machine.disk.data == Data::Server { cluster, member: member.id };
            // Kubernetes needs 40 s to call a kubelet silent, and the grace begins only then.
            let grace = self.settings[usize::from(by) - 1].healing.grace + Duration::from_secs(35);
            let served = machine.healer.served.unwrap_or_default();
            if kind == Removal::Dead && intact && now.saturating_sub(served) < grace {
                let since = now.saturating_sub(served).as_secs();
                broken =
                    Some(format!("{name} is removed {since} s after it served, before its grace was over"));
            }
            if quiet && let Some(heals) = &mut self.heals {
                // Its Node first and its member then is one removal in two steps.
                heals.dead_removed += usize::from(heals.counted.insert(member.id));
                let most = (heals.voters_then.max(1) - 1) / 2;
                if heals.dead_removed > most {
                    let removed = heals.dead_removed;
                    broken = Some(format!(
                        "{removed} dead of {} are removed, and no voter came",
                        heals.voters_then
                    ));
                } else if well {
                    // Everybody who stays lives: whoever dies from now on is of another go.
                    (heals.voters_then, heals.dead_removed) = (stay, 0);
                }
            } else if let Some(heals) = &mut self.heals {
                // One that lives goes: what may be taken from those who stay is counted anew.
                (heals.voters_then, heals.dead_removed) = (voters.len() - 1, 0);
            }
        }
        if let Some(broken) = broken {
            self.broken(|| broken);
        }
    }
}
