//! Network faults as nft rules of the bridge family, in the switch's namespace.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::net::Net;

/// What happens to frames that go from one host to another. One way: the other way is another fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Number of the sending host.
    pub from: u8,
    /// Number of the receiving host.
    pub to: u8,
    /// What is done to the frames.
    pub kind: Kind,
}

/// What a fault does to a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every frame is dropped.
    Cut,
    /// So many frames of a hundred are dropped, at random.
    Loss(u8),
    /// Every UDP datagram is dropped; TCP goes through: gossip is deaf, k3s is not.
    Udp,
    /// UDP datagrams of more than so many bytes, header included, are dropped: the greetings go through, the news does not.
    Large(u16),
}

/// The faults that keep `groups` apart from each other, both ways. Hosts in no group talk to everybody.
#[must_use]
pub fn partition(groups: &[Vec<u8>]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (i, a) in groups.iter().enumerate() {
        for b in groups.iter().skip(i + 1) {
            for (&x, &y) in a.iter().flat_map(|x| b.iter().map(move |y| (x, y))) {
                faults.push(Fault { from: x, to: y, kind: Kind::Cut });
                faults.push(Fault { from: y, to: x, kind: Kind::Cut });
            }
        }
    }
    faults
}

/// The same fault between all of `hosts`, both ways.
#[must_use]
pub fn among(hosts: &[u8], kind: Kind) -> Vec<Fault> {
    let pairs = hosts.iter().flat_map(|&from| hosts.iter().map(move |&to| (from, to)));
    pairs.filter(|(from, to)| from != to).map(|(from, to)| Fault { from, to, kind }).collect()
}

/// The text for `nft -f -` that replaces all earlier faults by these, in one transaction.
#[must_use]
pub fn rules(faults: &[Fault]) -> String {
    // Declared, deleted, declared: the one way to empty a table that may not exist.
    let mut text = String::from("table bridge faults\ndelete table bridge faults\n");
    if faults.is_empty() {
        return text;
    }
    text.push_str("table bridge faults {\n chain between {\n  type filter hook forward priority 0;\n");
    for Fault { from, to, kind } in faults {
        let what = match kind {
            Kind::Cut => "drop".to_owned(),
            Kind::Loss(percent) => format!("numgen random mod 100 < {percent} drop"),
            Kind::Udp => "meta l4proto udp drop".to_owned(),
            Kind::Large(bytes) => format!("udp length > {bytes} drop"),
        };
        let (from, to) = (Net::port(*from), Net::port(*to));
        writeln!(text, "  iifname \"{from}\" oifname \"{to}\" {what}").unwrap_or_default();
    }
    text.push_str(" }\n}\n");
    text
}

/// Reads `1,2|3,4,5` (numbers or node names) into groups.
///
/// # Errors
/// Fewer than two groups, an unknown host, or a host named twice.
pub fn parse_groups(text: &str, known: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for part in text.split('|') {
        let mut group = Vec::new();
        for name in part.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let index = parse_host(name, known)?;
            if !seen.insert(index) {
                bail!("{name} is named twice in `{text}`");
            }
            group.push(index);
        }
        if group.is_empty() {
            bail!("an empty group in `{text}`");
        }
        groups.push(group);
    }
    if groups.len() < 2 {
        bail!("`{text}` is one group: write two or more, divided by `|`, as in 1,2|3,4,5");
    }
    Ok(groups)
}

/// Reads a host's number or name (`3`, `node3`).
///
/// # Errors
/// No such host.
pub fn parse_host(name: &str, known: &[u8]) -> Result<u8> {
    let number = name.strip_prefix("node").unwrap_or(name).parse::<u8>().ok();
    match number.filter(|n| known.contains(n)) {
        Some(n) => Ok(n),
        None => bail!("no host `{name}`: this lab has {}", list(known)),
    }
}

fn list(known: &[u8]) -> String {
    known.iter().map(|n| format!("node{n}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_one_statement_a_line_and_replace_what_was_there() {
        let faults = [
            Fault { from: 1, to: 2, kind: Kind::Cut },
            Fault { from: 2, to: 1, kind: Kind::Loss(30) },
            Fault { from: 3, to: 1, kind: Kind::Udp },
        ];
        let golden = "table bridge faults\n\
                      delete table bridge faults\n\
                      table bridge faults {\n \
                      chain between {\n  \
                      type filter hook forward priority 0;\n  \
                      iifname \"p1\" oifname \"p2\" drop\n  \
                      iifname \"p2\" oifname \"p1\" numgen random mod 100 < 30 drop\n  \
                      iifname \"p3\" oifname \"p1\" meta l4proto udp drop\n \
                      }\n\
                      }\n";
        assert_eq!(rules(&faults), golden);
        assert_eq!(rules(&[]), "table bridge faults\ndelete table bridge faults\n");
    }

    #[test]
    fn a_partition_cuts_both_ways_and_only_between_groups() {
        let faults = partition(&[vec![1, 2], vec![3]]);
        let pairs: Vec<(u8, u8)> = faults.iter().map(|f| (f.from, f.to)).collect();
        assert_eq!(pairs, [(1, 3), (3, 1), (2, 3), (3, 2)]);
        assert_eq!(among(&[1, 2], Kind::Udp).len(), 2);
    }

    #[test]
    fn groups_are_read_by_number_or_name_and_mistakes_are_told() {
        let known = [1, 2, 3, 4, 5];
        assert_eq!(parse_groups("1,2|node3, 4,5", &known).unwrap(), [vec![1, 2], vec![3, 4, 5]]);
        let said = |text: &str| parse_groups(text, &known).unwrap_err().to_string();
        assert!(said("1,2").contains("is one group"));
        assert!(said("1|1").contains("named twice"));
        assert!(said("1|").contains("empty group"));
        assert!(said("1|9").contains("no host `9`: this lab has node1"));
    }
}
