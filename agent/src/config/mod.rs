//! Configuration: TOML drop-ins, environment and flags, merged with the origin of every value, checked into [`Settings`].

mod settings;

pub use settings::{FoundingMode, K3sSettings, Seed, Settings, Source, Timing};
