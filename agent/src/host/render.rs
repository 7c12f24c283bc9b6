//! Values to the text of files.

use crate::host::facts::swap::{FstabLine, fstab_line};
use crate::host::profile::Opening;
use crate::host::profile::word;

/// What we put before a line of fstab that we switch off. The line itself follows, byte for byte.
pub const FSTAB_MARK: &str = "#muster-swap-off# ";

const HEAD: &str = "# Written by muster: `muster plan` says why, `muster revert` takes it back.\n";

/// An fstab with its lines of type swap commented out; every other byte is kept.
#[must_use]
pub fn fstab_without_swap(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match fstab_line(line) {
            FstabLine::Swap(_) => format!("{FSTAB_MARK}{line}"),
            FstabLine::Comment | FstabLine::Other | FstabLine::Nonsense => line.to_owned(),
        })
        .collect()
}

/// A modules-load.d(5) file.
#[must_use]
pub fn modules_file<'a>(modules: impl IntoIterator<Item = &'a str>) -> String {
    let lines: String = modules.into_iter().map(|module| format!("{module}\n")).collect();
    format!("{HEAD}{lines}")
}

/// A sysctl.d(5) file in the one form that every reader takes: busybox knows no leading dash that would tolerate a key that is not
/// there, and OpenRC's script gives it the line's first word. So only keys that are there when it is read may stand in it.
#[must_use]
pub fn sysctl_file<'a>(values: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let lines: String = values.into_iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    format!("{HEAD}{lines}")
}

/// NetworkManager.conf(5): added to, not replacing, what others leave unmanaged.
#[must_use]
pub fn network_manager_file() -> String {
    format!(
        "{HEAD}[keyfile]\nunmanaged-devices+=interface-name:cni*;interface-name:flannel*;interface-name:veth*;interface-name:kube-*\n"
    )
}

/// firewalld policies (firewalld.policy(5), since 0.9): one opens ports towards the host and trusts the networks of pods and
/// services, one lets those networks pass through it. Policies of our own leave every zone of the operator's as it is.
#[must_use]
pub fn firewalld_policies(opening: &Opening) -> [String; 2] {
    let policy = |egress: &str, body: String| {
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
             <!-- Written by muster: `muster plan` says why, `muster revert` takes it back. -->\n\
             <policy target=\"CONTINUE\" priority=\"-100\">\n  <ingress-zone name=\"ANY\"/>\n  \
             <egress-zone name=\"{egress}\"/>\n{body}</policy>\n"
        )
    };
    let rule = |side: &str, network: &String| {
        let family = if network.contains(':') { "ipv6" } else { "ipv4" };
        format!(
            "  <rule family=\"{family}\">\n    <{side} address=\"{network}\"/>\n    <accept/>\n  </rule>\n"
        )
    };
    let ports: String = opening
        .ports
        .iter()
        .map(|(protocol, first, last)| {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            format!("  <port port=\"{range}\" protocol=\"{}\"/>\n", word(*protocol))
        })
        .collect();
    let from: String = opening.networks.iter().map(|network| rule("source", network)).collect();
    let to: String = opening.networks.iter().map(|network| rule("destination", network)).collect();
    [policy("HOST", ports + &from), policy("ANY", from + &to)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("/dev/sda2 none swap sw 0 0".to_owned()),
            Just("\t/swapfile  swap\tswap defaults 0 0\r".to_owned()),
            Just("# swap is below".to_owned()),
            Just("UUID=a / ext4 errors=remount-ro 0 1".to_owned()),
            "[ -~\t]{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn unmarking_gives_back_every_byte_and_no_swap_line_stays(
            lines in proptest::collection::vec(line(), 0..12), end in any::<bool>()
        ) {
            let text = lines.join("\n") + if end { "\n" } else { "" };
            let off = fstab_without_swap(&text);
            let marked = !text.contains(FSTAB_MARK);
            prop_assume!(marked);
            prop_assert_eq!(off.replace(FSTAB_MARK, ""), text.clone());
            prop_assert!(off.lines().all(|line| !matches!(fstab_line(line), FstabLine::Swap(_))));
            prop_assert_eq!(fstab_without_swap(&off), off.clone());
            for (old, new) in text.lines().zip(off.lines()) {
                prop_assert!(matches!(fstab_line(old), FstabLine::Swap(_)) || old == new);
            }
        }
    }
}
