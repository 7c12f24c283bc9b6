//! Configuration: TOML drop-ins, environment and flags, merged with the origin of every value, checked into [`Settings`].
//!
//! ```text
//! /usr/lib/muster/conf.d < /etc/muster/muster.toml < /etc/muster/conf.d < /run/muster/conf.d < kernel < MUSTER_* < flags
//!      fragment.rs ------------------> merge.rs (value + origin) ----------> check.rs --> Settings
//!                                           |
//!                                           +--> show.rs: `muster config show`, secrets masked
//! ```
//!
//! In a directory files are taken by name. A file in a later directory replaces the one of the same name in an earlier
//! directory whole, and a link to `/dev/null` removes it: systemd's rule. A key set later replaces the earlier value whole,
//! lists and tables too. The cluster token comes from the file that `token-file` names, the systemd credential
//! `muster.token`, the environment variable `MUSTER_TOKEN`, or the file that a single machine made for itself: the first that
//! is given, never from TOML text, a command line or the kernel's.
//!
//! [`load`] is the whole of it. What it refuses, it refuses in one line for each file, with the place and what is allowed; an
//! agent that is running parks with that reason and loads again when the [`Fingerprint`] has changed.

mod check;
mod discovery;
mod fingerprint;
mod fragment;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod k3s_keys;
mod kernel;
mod keys;
mod load;
mod merge;
mod names;
mod networks;
mod problem;
mod settings;
mod show;
mod sources;

pub use discovery::{
    CloudKind, CloudSettings, DiscoverySettings, DnsSettings, ExecSettings, Find, Network, SweepNetwork,
    SweepSettings,
};
pub use fingerprint::Fingerprint;
#[cfg(any(test, fuzzing))]
pub(crate) use k3s_keys::can_be_flag;
pub(crate) use k3s_keys::{deciding_argument, plain_key, refused as refused_k3s_keys};
pub use kernel::{BootUrl, ToFetch};
pub use load::{Loaded, TokenSource, load, load_making_token};
pub use merge::Origin;
#[cfg(any(test, fuzzing))]
pub(crate) use names::is_flag;
pub use problem::{ConfigError, ConfigErrors};
pub use settings::{
    FoundingMode, Healing, HealingMode, HostSettings, K3sSettings, Limits, Seed, Settings, Source, Timing,
};
pub(crate) use show::key_of;
pub use show::{Shown, table};
pub use sources::{Env, Flags, to_fetch};
pub(crate) use sources::{TokenText, read_token};
