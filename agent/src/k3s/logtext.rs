//! What k3s's journal says, told by inner fragments: prefixes and exit codes change between releases, these texts hardly do.
//!
//! The rows are those of the hazard table in `k3s-facts.md` part 12 that show in a log; the numbers are that table's. More
//! telling rows stand before more general ones: k3s wraps one message in another, and the first row that matches a line
//! names it.

use crate::core::Why;

/// Who may act on a hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It passes by itself, or k3s or Muster deals with it.
    ByItself,
    /// Something destructive may help, and needs a proof from outside this node first.
    Guarded,
    /// A person decides.
    Person,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub struct Hazard {
    /// Number in the hazard table.
    pub number: u8,
    /// Short stable name.
    pub name: &'static str,
    /// The fragments: any one of these, each with all of its parts, in one line.
    pub fragments: &'static [&'static [&'static str]],
    /// What it means.
    pub meaning: &'static str,
    /// What happens next, or what to do.
    pub next: &'static str,
    /// Who may act.
    pub act: Act,
}

/// A line of the journal with the hazard it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The row.
    pub hazard: &'static Hazard,
    /// The line, cut and without tokens.
    pub line: String,
    /// How often it stands in the tail.
    pub times: usize,
}

impl Finding {
    /// The finding as a reason.
    #[must_use]
    pub fn why(&self) -> Why {
        let detail = format!("{} (k3s says: {})", self.hazard.meaning, self.line);
        Why::new(format!("k3s-{}", self.hazard.name), detail, self.hazard.next)
    }
}

macro_rules! hazards {
    ($($number:literal $name:literal $act:ident $([$($part:literal)&+]),+ $meaning:literal => $next:literal;)+) => {
        &[$(Hazard {
            number: $number,
            name: $name,
            fragments: &[$(&[$($part),+]),+],
            meaning: $meaning,
            next: $next,
            act: Act::$act,
        }),+]
    };
}

/// The table.
#[rustfmt::skip]
pub const HAZARDS: &[Hazard] = hazards![
    13 "other-ca" Person ["token CA hash does not match the Cluster CA certificate hash"]
        "the server that was asked belongs to another cluster, or its CA was changed"
        => "compare the CA of all servers; the pinned token is not given up by itself";
    23 "node-password" Guarded ["Node password rejected"], ["unable to verify password for node"], ["NodePasswordValidationFailed"]
        "the cluster knows a node of this name with another password: a replaced or cloned machine, or a name used twice"
        => "once the old machine is known to be gone its Node is deleted, and k3s registers anew";
    14 "other-token" Guarded ["bootstrap data already found and encrypted with different token"]
        "the datastore was made with another token"
        => "put the old token back; its hash tells which one";
    17 "two-bootstrap-keys" Person ["found multiple bootstrap keys in storage"]
        "a token rotation was interrupted"
        => "finish the rotation";
    16 "no-bootstrap-data" Guarded ["no bootstrap data found in datastore"]
        "wrong token, or a damaged datastore"
        => "compare the token's hash on the servers; an expendable member is wiped and joins again";
    42 "agent-flag" Person ["flag provided but not defined"]
        "the agent's config.yaml holds a key that only servers know"
        => "remove the key from k3s.agent-config";
    52 "unknown-flag" Person ["Unknown flag" & "found in config.yaml, skipping"]
        "a key in config.yaml is not one of this release and is ignored"
        => "correct the key in k3s.server-config";
    41 "node-label" Person ["labels specified with --node-labels"]
        "a label in the configuration is one that a kubelet may not set"
        => "remove it there and set it through the API";
    18 "config-differs" Person ["critical configuration value mismatch between servers"], ["critical configuration mismatched:"]
        "a setting that must be equal on all servers differs from the cluster's"
        => "give this node the same settings as the others";
    50 "agent-newer" Person ["incompatible down-level server detected"]
        "this agent is newer than the servers"
        => "upgrade the servers first";
    51 "not-https" Person ["only https:// URLs are supported"]
        "the server's address is not an https URL"
        => "correct `server` in the configuration";
    27 "clock-unset" ByItself ["server time isn't set properly"]
        "the clock stands before 1980"
        => "k3s starts when the clock is set";
    26 "certificate-time" ByItself ["x509: certificate has expired or is not yet valid"]
        "this clock is more than an hour off, or a certificate has run out"
        => "set the clock; a restart of k3s renews its own certificates";
    28 "name-not-in-certificate" Person ["CA cert validation failed"], ["x509: certificate is valid for" & ", not "]
        "the address used is not in the server's certificate"
        => "add it to k3s.tls-san on all servers";
    15 "password-refused" Person ["not authorized"], ["401 Unauthorized"], ["invalid username/password combination"]
        "the server does not take this node's token"
        => "compare the cluster token of the nodes; two derivations of one token are the same";
    22 "tombstone-no-server" Guarded ["tombstone file has been detected but --server is empty"]
        "this member was removed, and its configuration names no server to join"
        => "nothing is moved by itself: make the machine a new node (docs/operations.md), once the others are a quorum without it";
    21 "removed" Guarded ["This node has been removed from the cluster"], ["the member has been permanently removed from the cluster"]
        "the cluster has removed this member"
        => "leave it off, or make the machine a new node (docs/operations.md), once the others are a quorum without it";
    6 "duplicate-name" Guarded ["duplicate node name found, please use a unique name for this node"]
        "etcd still has a member of this node's name: a reimaged machine, or two machines of one name"
        => "once the old machine is known to be gone its Node is deleted, which removes the member";
    8 "duplicate-address" Guarded ["etcdserver: Peer URLs already exists"]
        "etcd has a member with this node's address under another name"
        => "that member is removed first; check that no two machines share the address";
    9 "members-differ" Guarded ["error validating peerURLs"], ["member count is unequal"]
        "this node's database and the cluster disagree on the members"
        => "make the machine a new node (docs/operations.md), once the others are a quorum without it";
    25 "not-a-member" Guarded ["this server is not a member of the etcd cluster"]
        "the address changed, or the member was removed"
        => "give the node its old address back, or it joins again with an empty database";
    1 "another-learner" ByItself ["too many learner members in cluster"]
        "another server is joining; etcd takes one at a time"
        => "k3s tries again by itself";
    2 "etcd-unhealthy" ByItself ["etcdserver: unhealthy cluster"]
        "a member was just added, or one is down"
        => "k3s tries again by itself; look for a dead member if it stays";
    4 "learner-behind" ByItself ["can only promote a learner member which is in sync with leader"]
        "the new member is still catching up"
        => "it is promoted when it has caught up";
    5 "learner-stalled" Guarded ["stalled at RaftAppliedIndex"], ["Removed learner"]
        "a new member made no progress for five minutes and was removed"
        => "check ports 2379 and 2380 both ways, the clock and the disk; then make the machine a new node (docs/operations.md)";
    3 "not-yet-voter" ByItself ["this server has not yet been promoted from learner to voting member"]
        "the new member is catching up"
        => "normal; after five minutes look at the disk";
    10 "member-add-timeout" ByItself ["MemberAdd request timed out"]
        "etcd's leader is slow, or the quorum is bare"
        => "k3s tries again by itself";
    30 "not-etcd" Person ["etcd datastore disabled"]
        "the server that was asked does not run etcd"
        => "it was started outside Muster, without cluster-init: empty it and let it join";
    11 "no-member-list" ByItself ["failed to get MemberList from server"], ["Waiting to retrieve etcd cluster member list"]
        "the server that was asked has no running etcd yet"
        => "k3s tries again by itself";
    19 "files-newer" Guarded ["newer than datastore and could cause a cluster outage"]
        "files under server/tls or server/cred are newer than the cluster's"
        => "when the other servers agree on the CA, move the named files away";
    33 "reset-with-server" Person ["cannot perform cluster-reset while server URL is set"]
        "a cluster-reset was asked for with a server in the configuration"
        => "run it with a configuration that names no server";
    34 "reset-again" Person ["Managed etcd cluster membership was previously reset"]
        "a cluster-reset left its flag"
        => "start normally and check that there is one member";
    36 "restore-without-token" Person ["token does not exist, please pass --token"]
        "a restore on a fresh machine needs the original token"
        => "give it";
    37 "snapshot-missing" Person ["etcd: snapshot path does not exist"]
        "the snapshot's path is relative, or doubled by a release's bug with compressed ones"
        => "use an absolute path and an unpacked snapshot";
    31 "api-late" ByItself ["failed to wait for API server to become ready"]
        "the API was not ready within 15 minutes: no quorum, no promotion, or a slow disk"
        => "k3s starts again; normal during a long outage; check ports 2380 and 6443 of the others";
    43 "cgroups" Person ["pids cgroup controller not found"], ["ailed to find memory cgroup"], ["cgroup (v2)"], ["not run on a host using cgroup v1"]
        "the kernel does not give k3s a cgroup controller it needs"
        => "change the kernel's command line and start the machine anew";
    44 "no-route" Person ["no default route"], ["no default routes found"], ["failed to find interface"], ["unable to find a default route"]
        "the network plug-in found no interface to use"
        => "add a default route, or set interface and k3s's flannel-iface";
    45 "etcd-alarm" Guarded ["alarm must be disarmed manually"], ["etcdserver: mvcc: database space exceeded"], ["alarm:NOSPACE"], ["alarm:CORRUPT"]
        "etcd raised an alarm: no space, or damaged data"
        => "free the disk; a damaged member is wiped and joins again while the others are healthy";
    46 "slow-disk" Person ["slow fdatasync"], ["apply request took too long"]
        "the disk is too slow for etcd"
        => "move the database to a faster disk";
    56 "port-taken" Person ["bind: address already in use"]
        "another program holds a port that k3s needs"
        => "k3s tries again; stop the other program";
    57 "disk-full" Person ["no space left on device"]
        "a file system is full"
        => "free some space; k3s tries again by itself";
    47 "bootstrap-locked" ByItself ["Bootstrap key already locked"]
        "another server is the first on this external datastore"
        => "k3s waits";
    55 "other-k3s-units" Person ["Additional k3s services installed, skipping uninstall of k3s"]
        "another k3s unit is installed"
        => "remove it first";
    20 "reconcile-skipped" ByItself ["Unable to reconcile with remote datastore"]
        "the join server is down; a member starts from its own data"
        => "nothing is to be done";
    39 "cluster-unreachable" ByItself ["Failed to validate connection to cluster at"]
        "the server to join does not answer"
        => "k3s tries again every two seconds; muster names another server when this one stays down";
    12 "join-server-down" ByItself ["failed to get CA certs:"]
        "the server to join does not answer"
        => "k3s tries again every five seconds; muster names another server when this one stays down";
    40 "server-not-ready" ByItself ["Waiting to retrieve agent configuration; server is not ready"]
        "the server to join is still starting"
        => "k3s tries again by itself";
    // No row of that table: whatever else ends k3s must not look like a slow start.
    90 "fatal" Person ["level=fatal msg="]
        "k3s ended with an error"
        => "systemd starts it again every five seconds; read journalctl -u k3s, or -u k3s-agent";
];

/// The hazards in a journal tail, in the order in which each was last said: the newest is the last.
#[must_use]
pub fn read(tail: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for line in tail.lines() {
        let Some(hazard) = classify(line) else { continue };
        let mut times = 1;
        if let Some(at) = findings.iter().position(|finding| finding.hazard == hazard) {
            times += findings.remove(at).times;
        }
        findings.push(Finding { hazard, line: clean(line), times });
    }
    findings
}

/// The row that a line shows.
#[must_use]
pub fn classify(line: &str) -> Option<&'static Hazard> {
    // Since September 2025 a reason arrives quoted and escaped; none of the fragments needs its quotes.
    HAZARDS.iter().find(|row| row.fragments.iter().any(|parts| parts.iter().all(|part| line.contains(part))))
}

/// The line as it may be shown: no token, no logger's prefix, not endless.
fn clean(line: &str) -> String {
    const MOST: usize = 300;
    let message = line.split_once(" msg=").map_or(line, |(_, message)| message);
    let mut out = String::new();
    let mut rest = message.trim();
    while let Some(at) = rest.find("K10") {
        let word = rest[at..]
            .find(|c: char| c.is_whitespace() || c == '"' || c == '\\')
            .map_or(rest.len(), |end| at + end);
        out.push_str(&rest[..at]);
        out.push_str(if rest[at..word].contains("::") { "K10***" } else { &rest[at..word] });
        rest = &rest[word..];
    }
    out.push_str(rest);
    // A journal may hold whatever a program wrote, colours and cursor movements too.
    out.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SAMPLES: &str = include_str!("../../testdata/k3s/journal-lines.txt");

    #[test]
    fn every_sample_line_is_named_as_written_beside_it() {
        let mut seen = BTreeSet::new();
        for sample in SAMPLES.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (number, line) = sample.split_once('\t').unwrap();
            let found = classify(line).map_or(0, |hazard| hazard.number);
            assert_eq!(found, number.parse::<u8>().unwrap(), "{line}");
            seen.insert(found);
        }
        let rows: BTreeSet<u8> = HAZARDS.iter().map(|row| row.number).chain([0]).collect();
        assert_eq!(rows, seen, "every row has a sample, and so has a line that is none");
    }

    #[test]
    fn names_and_numbers_are_unique() {
        let names: BTreeSet<&str> = HAZARDS.iter().map(|row| row.name).collect();
        let numbers: BTreeSet<u8> = HAZARDS.iter().map(|row| row.number).collect();
        assert_eq!((names.len(), numbers.len()), (HAZARDS.len(), HAZARDS.len()));
    }

    #[test]
    fn the_newest_hazard_comes_last_and_repeats_are_counted() {
        let learner = "Waiting for other members to finish joining etcd cluster: etcdserver: too many learner members in cluster";
        let tail = format!("{learner}\nnothing\netcdserver: unhealthy cluster\n{learner}\n");
        let findings = read(&tail);
        let told: Vec<(u8, usize)> = findings.iter().map(|f| (f.hazard.number, f.times)).collect();
        assert_eq!(told, [(2, 1), (1, 2)]);
        assert_eq!(findings[1].why().rule, "k3s-another-learner");
    }

    #[test]
    fn a_line_cannot_move_the_cursor_of_whoever_reads_it() {
        let findings = read("no space left on device\r\u{1b}[2Jall is well");
        assert_eq!(findings[0].line, "no space left on device  [2Jall is well");
    }

    #[test]
    fn a_token_in_a_line_is_not_shown() {
        let hash = "0".repeat(64);
        let line = format!(
            "time=\"x\" level=fatal msg=\"not authorized with K10{hash}::server:hunter2 for K10\\\" end\""
        );
        let findings = read(&line);
        assert_eq!(findings[0].line, "\"not authorized with K10*** for K10\\\" end\"");
    }
}
