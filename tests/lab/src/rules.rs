//! The rule names that scenarios expect: the one place to change when the agent names a rule anew.

/// No peer answers under this token.
pub const NO_PEER: &str = "no-peer-answers";
/// Some node has other parameters.
pub const PARAMETERS: &str = "parameters-differ";
/// The key that is named when two configurations ask for another number of servers: `founders` follows from it.
pub const SERVERS_KEYS: &[&str] = &["servers", "founders"];
/// Fewer machines are up than a founding needs.
pub const WAITING: &str = "waiting-for-founders";
/// The founder named on the certificate does not answer.
pub const FOUNDER_SILENT: &str = "founder-silent";
/// A server waits for another one to join first; that one may be waiting for a silent founder.
pub const SERIALISED: &str = "joins-serialised";
/// A provisional cluster was given up for the one that was chosen.
pub const DISCARDED: &str = "provisional-discarded";
/// Two machines have one identity.
pub const CLONED: &str = "identity-cloned";
/// Two certificates of one era are known.
pub const TWO_CLUSTERS: &str = "two-clusters";
/// Another machine has this one's machine-id.
pub const SHARED_ID: &str = "machine-id-shared";
/// There are as many servers as are wanted.
pub const SERVERS_FULL: &str = "servers-full";

/// What a node must say about bad input.
#[derive(Debug, Clone, Copy)]
pub struct Complaint {
    /// Any of these rule names is right.
    pub rules: &'static [&'static str],
    /// Any of these phases is right.
    pub phases: &'static [&'static str],
    /// The line must hold all of these words.
    pub words: &'static [&'static str],
}

/// Port 6443 is taken by another program.
pub const API_PORT: Complaint =
    Complaint { rules: &["host.port.6443"], phases: &["preparing", "parked"], words: &["6443"] };
/// The gossip port is taken by another program.
pub const GOSSIP_PORT: Complaint =
    Complaint { rules: &["gossip-port-taken"], phases: &["parked", "preparing"], words: &["7846"] };
/// There is no default route, so no address to be reached by.
pub const NO_ROUTE: Complaint =
    Complaint { rules: &["no-default-route"], phases: &["parked", "preparing"], words: &["route"] };
/// The host is named `localhost`.
pub const HOST_NAME: Complaint =
    Complaint { rules: &["host-name"], phases: &["parked", "preparing"], words: &["localhost"] };
/// Two hosts have the same name.
pub const NAME_TAKEN: Complaint =
    Complaint { rules: &["name-held", "duplicate-name"], phases: &["parked", "joining"], words: &["node2"] };
/// The state directory cannot be written.
pub const READ_ONLY: Complaint = Complaint {
    rules: &["ledger-unwritable"],
    phases: &["parked", "preparing"],
    words: &["/var/lib/muster"],
};
/// The state directory is full.
pub const FULL: Complaint = Complaint {
    rules: &["ledger-unwritable"],
    phases: &["parked", "preparing"],
    words: &["/var/lib/muster"],
};
/// The ledger is torn.
pub const LEDGER: Complaint =
    Complaint { rules: &["ledger-unreadable"], phases: &["parked"], words: &["ledger.json"] };
/// The k3s binary is not the one on the checksum list.
pub const CHECKSUM: Complaint =
    Complaint { rules: &["k3s-unavailable"], phases: &["preparing", "parked"], words: &["sha-256"] };
/// The k3s binary is for another machine.
pub const ARCHITECTURE: Complaint =
    Complaint { rules: &["k3s-unavailable"], phases: &["preparing", "parked"], words: &["executable for"] };
/// The configuration ends in the middle of a line.
pub const CONFIGURATION: Complaint =
    Complaint { rules: &["configuration-refused"], phases: &["parked"], words: &["muster.toml"] };
/// The token file is empty.
pub const TOKEN_EMPTY: Complaint = refused(&["token", "empty"]);
/// The token can be guessed.
pub const TOKEN_SHORT: Complaint = refused(&["token", "at least 16"]);
/// The token would be taken for a full one of k3s.
pub const TOKEN_K10: Complaint = refused(&["starts with K10"]);
/// The token would be taken for a bootstrap token.
pub const TOKEN_BOOTSTRAP: Complaint = refused(&["bootstrap token"]);
/// Everybody may read the token.
pub const TOKEN_OPEN: Complaint = refused(&["mode 0644", "chmod 600"]);
const fn refused(words: &'static [&'static str]) -> Complaint {
    Complaint { rules: &["configuration-refused"], phases: &["parked"], words }
}
/// No seed answers.
pub const SEEDS: Complaint = Complaint { rules: &[NO_PEER], phases: &["seeking"], words: &[] };
