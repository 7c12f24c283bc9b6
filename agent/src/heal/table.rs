//! What is healed, as data: the table of `docs/healing.md` is made of it.

/// One row: a symptom, and everything that hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The rule that speaks of it.
    pub rule: &'static str,
    /// What is seen.
    pub symptom: &'static str,
    /// What must agree.
    pub evidence: &'static str,
    /// What is done.
    pub remedy: &'static str,
    /// What holds it back.
    pub guard: &'static str,
    /// What a person does.
    pub person: &'static str,
}

macro_rules! rows {
    ($($rule:literal: $symptom:literal | $evidence:literal | $remedy:literal | $guard:literal | $person:literal;)+) => {
        &[$(Row {
            rule: $rule, symptom: $symptom, evidence: $evidence, remedy: $remedy, guard: $guard, person: $person,
        }),+]
    };
}

/// The table.
#[rustfmt::skip]
pub const ROWS: &[Row] = rows![
    "server-silent": "a server does not answer"
        | "gossip, a direct question to its supervisor and its etcd, and its Node's condition: all of them"
        | "none until `healing.grace-s` is over"
        | "any one sign of life begins the count anew; a list that could not be read is no sign of death"
        | "nothing; or start it";
    "server-removed": "a server is dead for longer than the grace, or its machine is gone for good"
        | "as above; or another machine stands at its address, or its own signed word that it lost its data, or a discovery source that says `terminated`"
        | "its Node is deleted; k3s removes its member and its password secret"
        | "a machine must be there to take its place; living voters are a majority before and after; no learner; asked again just before"
        | "nothing";
    "no-spare": "a server is dead and no machine can take its place"
        | "as above"
        | "none: its member is kept, its machine may return"
        | ""
        | "start a machine: it joins by itself";
    "removal-refused": "a removal would leave too few living voters"
        | "the member list and the claims of the living"
        | "none"
        | "quorum arithmetic"
        | "start one of the missing servers";
    "member-without-node": "etcd lists a dead member whose Node is gone, or has been going for a minute beyond the grace"
        | "as above, and no such Node, or one that is being deleted; or its own signed word that it waits for its name"
        | "its member is removed by this server's etcd: k3s removes one with its Node alone"
        | "as for a server that is removed; the member is told by name and address; while a Node of that name exists that nobody has deleted, nothing is done"
        | "nothing; without an address: `etcdctl member remove` with the certificates under `server/tls/etcd`";
    "spare-promoted": "fewer voters than `servers`"
        | "the member list; nobody is on its way"
        | "the fittest live agent is drained and ordered to become a server; it keeps its identity and name"
        | "one change at a time; role `agent` and unfit hosts are left out"
        | "nothing";
    "spare-failed": "a promoted machine is no member after `healing.patience-s`"
        | "its order's age, the member list"
        | "the order is taken back and another spare is tried; the machine gives up by itself (`server-start-failed`)"
        | ""
        | "look at that machine: `muster why`";
    "server-start-failed": "a machine that was to be a server has tried for `healing.patience-s` and 30 s beside one that serves, and its etcd never ran"
        | "its own clock; a list of members in which it does not vote"
        | "it gives up, joins as an agent, and is no spare for ten minutes; its learner, which keeps others out, is removed by etcd's leader within five minutes"
        | "never a voter, never one whose etcd has run"
        | "look at that machine: `muster log` has the cause";
    "servers-missing": "fewer voters than `servers`, and no spare"
        | "the member list, the claims"
        | "none"
        | ""
        | "start a machine";
    "surplus-demoted": "more voters than `servers`"
        | "the member list, for 30 s, every server healthy"
        | "the least fit is drained and its Node deleted; its machine joins again as an agent"
        | "quorum arithmetic; never the healer itself"
        | "nothing";
    "rejoining": "this machine was removed from the cluster while it was away, or its address changed"
        | "etcd's tombstone or k3s's own words, and the member list of a server that serves, verified by the certificate's CA"
        | "its data is moved aside and it joins as a new node"
        | "a list without any voter, or an unverified one, proves nothing"
        | "nothing";
    "data-missing": "a server's k3s data is not on its disk, and no server serves"
        | "the disk, the claims of the living"
        | "none until a server serves: then its data counts as lost"
        | ""
        | "mount the disk, or start another server";
    "removal-unverified": "k3s says that this member was removed, and nobody can be asked"
        | "as above"
        | "none until a server answers"
        | ""
        | "start another server; if all are gone: `quorum-lost`";
    "name-held": "a new machine has the name of a member"
        | "the dead identity, the address, the Node's condition"
        | "the old Node is deleted; without a Node, the password that k3s kept for the name"
        | "quorum arithmetic; never while a machine of that name lives"
        | "give it another name, if both machines live";
    "server-gone": "an agent's Node is not Ready, and the server in its configuration is gone"
        | "gossip, for 60 s; its own Node's condition"
        | "k3s is configured with a server that serves and restarted; pods run on"
        | "none while that server lives, or no other serves"
        | "nothing";
    "certificate-renewal": "k3s's certificates on a machine end within 30 days"
        | "the certificates on its disk"
        | "its k3s is restarted, which renews them; pods run on"
        | "servers one at a time, under the Lease `kube-system/muster-restart`, each only while all others vote; not again within a day"
        | "nothing";
    "left-cluster": "this machine was told to leave"
        | "the request on its disk"
        | "none: it stays out"
        | ""
        | "`muster leave --cancel`";
    "leave-refused": "leaving would cost the cluster its quorum"
        | "quorum arithmetic"
        | "none: it stays"
        | ""
        | "start another server first";
    "quorum-lost": "too few voters live for any write"
        | "the voters kept in the ledger, gossip"
        | "none, ever, by itself"
        | ""
        | "start the missing servers; only if they are gone for good: `muster recover`";
    "members-split": "a live server votes in another etcd cluster under the same certificate"
        | "its claim and this server's own list, for 30 s; the other side is told by the claim of the one that sees it"
        | "none: every server that sees it or is told is `degraded`, and nothing is removed, promoted or restarted"
        | ""
        | "compare `/db/info` of the servers; keep one side, `muster fold --into` it on every machine of the other";
];

/// The rows as a Markdown table.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "| rule | seen | evidence | what Muster does | what holds it back | what you do |\n|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let cells = [row.symptom, row.evidence, row.remedy, row.guard, row.person]
            .map(|cell| if cell.is_empty() { "–".to_owned() } else { cell.to_owned() });
        text.push_str(&format!("| `{}` | {} |\n", row.rule, cells.join(" | ")));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_the_docs_is_this_one() {
        let page = include_str!("../../../docs/healing.md");
        assert!(page.contains(&super::document()), "put this into docs/healing.md:\n{}", super::document());
    }
}
