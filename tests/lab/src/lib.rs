//! The lab: hosts with real systemd in network namespaces, and the scenarios that run on them.
//!
//! `cargo lab up` makes hosts out of nothing, gives all of them one configuration and shows a cluster form;
//! `cargo lab scenario` runs the product's acceptance tests on hosts of their own.

pub mod bench;
pub mod cgroup;
pub mod check;
pub mod cli;
pub mod conf;
pub mod faults;
pub mod host;
pub mod inside;
pub mod lab;
pub mod member;
pub mod net;
pub mod paths;
pub mod picture;
pub mod probe;
pub mod process;
pub mod progress;
pub mod rules;
pub mod run;
pub mod scan;
pub mod scenarios;
pub mod setup;
pub mod shelf;
pub mod status;
pub mod sweep;
pub mod view;
pub mod wait;
pub mod wire;
