//! Firewalls: what their files say.

use std::collections::BTreeSet;

/// The plain rules of ufw's `user.rules`, as `ufw allow` takes them: `6443/tcp`, `2379:2380/tcp`, `from 10.42.0.0/16`. Rules that
/// say more (an interface, a direction, a refusal) are left out: they open less than ours.
#[must_use]
pub fn parse_ufw(text: &str) -> BTreeSet<String> {
    let tuples = text.lines().filter_map(|line| line.strip_prefix("### tuple ### "));
    tuples
        .filter_map(|tuple| {
            let fields: Vec<&str> =
                tuple.split_whitespace().filter(|field| !field.starts_with("comment=")).collect();
            // action, protocol, port, to, source port, from, direction
            let ["allow", protocol, port, to, "any", from, "in"] = fields.as_slice() else { return None };
            let anywhere = |address: &str| matches!(address, "0.0.0.0/0" | "::/0");
            match (*protocol, *port) {
                _ if !anywhere(to) => None,
                ("tcp" | "udp", port) if port != "any" && anywhere(from) => {
                    Some(format!("{port}/{protocol}"))
                }
                ("any", "any") if !anywhere(from) => Some(format!("from {from}")),
                _ => None,
            }
        })
        .collect()
}

/// Whether an nftables.conf(5) has a base chain on input or forward whose policy is to drop. Comments do not count.
#[must_use]
pub fn parse_nftables(text: &str) -> bool {
    let mut hooked = false;
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
        for statement in line.split(['{', ';', '}']) {
            let words: Vec<&str> = statement.split_whitespace().collect();
            if words.first() == Some(&"chain") {
                hooked = false;
            }
            hooked |= words.windows(2).any(|pair| matches!(pair, ["hook", "input" | "forward"]));
            if hooked && words.windows(2).any(|pair| pair == ["policy", "drop"]) {
                return true;
            }
        }
    }
    false
}

/// Files that rules include by their whole names; patterns and relative names are left out.
#[must_use]
pub fn nftables_includes(text: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter_map(|line| {
            let name = line.strip_prefix("include")?.trim().trim_end_matches(';').trim();
            let name = name.strip_prefix('"')?.strip_suffix('"')?;
            (name.starts_with('/') && !name.contains(['*', '?', '['])).then(|| name.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_rules_of_ufw_are_read_and_narrower_ones_do_not_count() {
        let text = "*filter\n### RULES ###\n\n\
            ### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n\n\
            ### tuple ### allow tcp 2379:2380 0.0.0.0/0 any 0.0.0.0/0 in comment=6d7573746572\n\
            ### tuple ### allow any any 0.0.0.0/0 any 10.42.0.0/16 in\n\
            ### tuple ### deny tcp 6443 0.0.0.0/0 any 0.0.0.0/0 in\n\
            ### tuple ### allow tcp 10250 0.0.0.0/0 any 10.0.0.0/24 in\n\
            ### tuple ### allow tcp 9000 0.0.0.0/0 any 0.0.0.0/0 in_eth0\n### END RULES ###\n";
        assert_eq!(
            parse_ufw(text).into_iter().collect::<Vec<_>>(),
            ["22/tcp", "2379:2380/tcp", "from 10.42.0.0/16"]
        );
        assert!(parse_ufw("").is_empty());
    }

    #[test]
    fn a_chain_that_drops_is_told_from_one_that_accepts() {
        let debian =
            "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter;\n\t}\n}\n";
        assert!(!parse_nftables(debian));
        assert!(parse_nftables(
            "table inet filter {\n chain input {\n  type filter hook input priority 0; policy drop;\n }\n}\n"
        ));
        assert!(!parse_nftables(
            "table inet f {\n chain o { type filter hook output priority 0; policy drop; }\n}\n"
        ));
        assert!(!parse_nftables("# type filter hook input priority 0; policy drop;\n"));
        let rhel = "# include \"/etc/nftables/router.nft\"\ninclude \"/etc/nftables/main.nft\"\ninclude \"/etc/nft/*.nft\";\n";
        assert_eq!(nftables_includes(rhel), ["/etc/nftables/main.nft"]);
    }
}
