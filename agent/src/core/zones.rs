//! Failure domains: servers are spread over the zones that their machines say they stand in.
//!
//! A zone is advice: it ranks machines that may all be chosen, and never keeps a place empty. Machines that know no zone stand in
//! one of their own, so that a group without zones is ranked as if there were none.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The well-known Node label of a failure domain.
pub const LABEL: &str = "topology.kubernetes.io/zone";

/// How many servers stand in each zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zones<'a>(BTreeMap<&'a str, usize>);

impl<'a> Zones<'a> {
    /// Counts the zones of servers.
    pub fn of(servers: impl IntoIterator<Item = &'a str>) -> Self {
        let mut zones = Self::default();
        for zone in servers {
            zones.take(zone);
        }
        zones
    }

    /// One server more.
    pub fn take(&mut self, zone: &'a str) {
        *self.0.entry(zone).or_default() += 1;
    }

    /// Servers there.
    #[must_use]
    pub fn count(&self, zone: &str) -> usize {
        self.0.get(zone).copied().unwrap_or_default()
    }

    /// How well a machine fills a place, more is better: a fit one before an unfit one (class 0), then one of a zone with fewer
    /// servers, then the fitter one.
    #[must_use]
    pub fn rank(&self, zone: &str, class: u8) -> (bool, Reverse<usize>, u8) {
        (class > 0, Reverse(self.count(zone)), class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptier_zone_comes_before_a_fitter_machine_but_not_before_a_fit_one() {
        let zones = Zones::of(["a", "a", "b", ""]);
        assert_eq!((zones.count("a"), zones.count("b"), zones.count(""), zones.count("c")), (2, 1, 1, 0));
        assert!(zones.rank("c", 1) > zones.rank("b", 3));
        assert!(zones.rank("b", 1) > zones.rank("a", 3));
        assert!(zones.rank("a", 3) > zones.rank("a", 2));
        assert!(zones.rank("a", 1) > zones.rank("c", 0), "an unfit machine is the last choice");
    }
}
