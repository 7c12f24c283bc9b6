//! The keys of `[discovery]`.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Check, Key, Merged, names};
use crate::config::discovery::{
    CloudKind, CloudSettings, DiscoverySettings, DnsSettings, ExecSettings, Find, SweepNetwork, SweepSettings,
};
use crate::config::names::Network;

/// Whether any key beside the seeds tells where to look.
pub(in crate::config) fn is_told(merged: &Merged) -> bool {
    let lists = [Key::DiscoveryDnsNames, Key::DiscoverySweepNetworks, Key::DiscoveryExecCommand];
    lists.iter().any(|key| !merged.list(*key).is_empty())
        || merged.text(Key::DiscoveryMdns) == Some("on")
        || merged.get(Key::DiscoveryFile).is_some()
        || FINDS.iter().any(|(_, key)| merged.text(*key).is_some_and(|find| find != "none"))
}

const FINDS: [(CloudKind, Key); 6] = [
    (CloudKind::Aws, Key::DiscoveryAwsFind),
    (CloudKind::Gcp, Key::DiscoveryGcpFind),
    (CloudKind::Azure, Key::DiscoveryAzureFind),
    (CloudKind::Hetzner, Key::DiscoveryHetznerFind),
    (CloudKind::OpenStack, Key::DiscoveryOpenstackFind),
    (CloudKind::DigitalOcean, Key::DiscoveryDigitaloceanFind),
];

impl Check<'_> {
    pub(super) fn discovery(&mut self, lone: bool) -> Option<DiscoverySettings> {
        let names = self.list(Key::DiscoveryDnsNames, service_name);
        let servers = self.list(Key::DiscoveryDnsServers, name_server);
        let rate = self.whole(Key::DiscoverySweepRate, |rate| match rate {
            16..=10_000 => u32::try_from(rate).map_err(|_| "too large".into()),
            _ => Err("allowed are 16 to 10000 probes in a second".into()),
        });
        let sweep = self.sweep(lone);
        let mdns = self.text(Key::DiscoveryMdns, |text| match text {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err("allowed are on and off".into()),
        });
        let timeout = self.whole(Key::DiscoveryExecTimeoutMs, |number| match number {
            100..=60_000 => Ok(Duration::from_millis(number)),
            _ => Err("allowed are 100 to 60000 milliseconds".into()),
        });
        let command = self.merged.list(Key::DiscoveryExecCommand).to_vec();
        if let Some(program) = command.first()
            && let Err(reason) = names::absolute(program)
        {
            self.refuse(Key::DiscoveryExecCommand, "***", format!("the program: {reason}"));
        }
        let file = self.text(Key::DiscoveryFile, names::absolute);
        let clouds = FINDS.iter().filter_map(|(kind, key)| self.cloud(*kind, *key)).collect();
        let (rate, timeout) = (rate?, timeout?);
        Some(DiscoverySettings {
            dns: (!names.is_empty()).then_some(DnsSettings { names, servers }),
            sweep: (!sweep.is_empty()).then_some(SweepSettings { networks: sweep, rate }),
            mdns: mdns?,
            exec: (!command.is_empty()).then_some(ExecSettings { command, timeout }),
            file,
            clouds,
        })
    }

    /// The networks to sweep. Where nothing else says where peers are, that is the local one: a machine that knows a token and
    /// nothing else must find its group.
    fn sweep(&mut self, lone: bool) -> Vec<SweepNetwork> {
        let told = is_told(self.merged) || !self.merged.list(Key::Seeds).is_empty();
        if self.merged.get(Key::DiscoverySweepNetworks).is_none() {
            return if told || lone { Vec::new() } else { vec![SweepNetwork::Local] };
        }
        self.list(Key::DiscoverySweepNetworks, |text| {
            if text == "local" {
                return Ok(SweepNetwork::Local);
            }
            let network =
                Network::parse(text).map_err(|reason| format!("{reason}; allowed are local and networks"))?;
            match network.unfit_for_sweep() {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(SweepNetwork::Of(network)),
            }
        })
    }

    fn cloud(&mut self, kind: CloudKind, key: Key) -> Option<CloudSettings> {
        let find = self.text(key, |text| find(kind, text));
        let base = |text: &str| names::url(text, &["https", "http"]);
        let (endpoint, metadata, region, file, credential) = match kind {
            CloudKind::Aws => (
                Some(Key::DiscoveryAwsEndpoint),
                Key::DiscoveryAwsMetadata,
                Some(Key::DiscoveryAwsRegion),
                None,
                None,
            ),
            CloudKind::Gcp => (Some(Key::DiscoveryGcpEndpoint), Key::DiscoveryGcpMetadata, None, None, None),
            CloudKind::Azure => {
                (Some(Key::DiscoveryAzureEndpoint), Key::DiscoveryAzureMetadata, None, None, None)
            }
            CloudKind::Hetzner => (
                Some(Key::DiscoveryHetznerEndpoint),
                Key::DiscoveryHetznerMetadata,
                None,
                Some(Key::DiscoveryHetznerTokenFile),
                None,
            ),
            CloudKind::OpenStack => (
                Some(Key::DiscoveryOpenstackAuthUrl),
                Key::DiscoveryOpenstackMetadata,
                Some(Key::DiscoveryOpenstackRegion),
                Some(Key::DiscoveryOpenstackSecretFile),
                Some(Key::DiscoveryOpenstackCredentialId),
            ),
            CloudKind::DigitalOcean => (
                Some(Key::DiscoveryDigitaloceanEndpoint),
                Key::DiscoveryDigitaloceanMetadata,
                None,
                Some(Key::DiscoveryDigitaloceanTokenFile),
                None,
            ),
        };
        let endpoint = endpoint.and_then(|key| self.text(key, base));
        let metadata = self.text(metadata, base);
        let region = region.and_then(|key| self.text(key, plain_word));
        let token_file = file.and_then(|key| self.text(key, names::absolute));
        let credential = credential.and_then(|key| self.text(key, plain_word));
        let find = find?;
        if find != Find::Metadata
            && let Some(file) = file
            && self.merged.get(file).is_none()
        {
            let reason = format!("it needs {}: a file with what the API asks for", file.name());
            self.refuse(key, self.merged.text(key).unwrap_or_default().to_owned().as_str(), reason);
        }
        if kind == CloudKind::OpenStack
            && find != Find::Metadata
            && (endpoint.is_none() || credential.is_none())
        {
            let reason =
                "it needs discovery.openstack.auth-url and discovery.openstack.credential-id".to_owned();
            self.refuse(key, self.merged.text(key).unwrap_or_default().to_owned().as_str(), reason);
        }
        Some(CloudSettings { kind, find, endpoint, metadata, region, token_file, credential })
    }
}

fn find(kind: CloudKind, text: &str) -> Result<Find, String> {
    let grouped = matches!(kind, CloudKind::Aws | CloudKind::Gcp | CloudKind::Azure);
    let word = match kind {
        CloudKind::Gcp | CloudKind::Hetzner => "label",
        CloudKind::OpenStack => "metadata",
        _ => "tag",
    };
    let valued = kind != CloudKind::DigitalOcean;
    let allowed = || {
        let group = if grouped { "group, " } else { "" };
        let value = if valued { "=VALUE" } else { "" };
        format!("allowed are {group}{word}:NAME{value}, and none for the metadata service alone")
    };
    let holds = |text: &str| {
        (1..=255).contains(&text.len())
            && text.bytes().all(|byte| {
                byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'&' | b'<' | b'>' | b'\'' | b',')
            })
    };
    match text {
        "none" => return Ok(Find::Metadata),
        "group" if grouped => return Ok(Find::Group),
        _ => {}
    }
    let rest = text.strip_prefix(word).and_then(|rest| rest.strip_prefix(':')).ok_or_else(allowed)?;
    match rest.split_once('=') {
        Some((name, value)) if valued && holds(name) && holds(value) => {
            Ok(Find::Tag(name.to_owned(), Some(value.to_owned())))
        }
        None if !valued && holds(rest) => Ok(Find::Tag(rest.to_owned(), None)),
        _ => Err(allowed()),
    }
}

/// A region, a credential's id: letters, digits, hyphens and underscores.
fn plain_word(text: &str) -> Result<String, String> {
    let holds = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=64).contains(&text.len()) && text.bytes().all(holds) {
        Ok(text.to_owned())
    } else {
        Err("allowed are letters, digits, hyphen and underscore".into())
    }
}

/// A DNS name, or that of a service: `_muster._udp.example.org`.
fn service_name(text: &str) -> Result<String, String> {
    let plain: Vec<&str> = text.split('.').map(|label| label.strip_prefix('_').unwrap_or(label)).collect();
    names::dns_name(&plain.join("."))?;
    Ok(text.to_owned())
}

fn name_server(text: &str) -> Result<SocketAddr, String> {
    match names::seed(text, 53) {
        Ok(crate::config::Seed::Address(address)) => Ok(address),
        _ => Err("allowed are address, address:port and [v6 address]:port".into()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{DiscoverySettings, Env, Flags, Settings, load};

    fn told(toml: &str) -> Result<Settings, String> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("etc/muster");
        crate::edge::fs::create_directory(&path, 0o755).unwrap();
        crate::edge::fs::write_atomic(&path.join("muster.toml"), toml.as_bytes(), 0o644).unwrap();
        let env = Env::of(&[("MUSTER_TOKEN", "a-token-for-tests-only-0123456789")]);
        load(root.path(), &env, &Flags::default())
            .map(|loaded| loaded.settings)
            .map_err(|errors| errors.to_string())
    }

    fn discovery(toml: &str) -> DiscoverySettings {
        told(&format!("seeds = [\"10.0.0.1\"]\n{toml}")).unwrap().discovery
    }

    #[test]
    fn a_machine_that_knows_a_token_and_nothing_else_sweeps_and_one_that_is_told_or_alone_does_not() {
        use super::SweepNetwork::Local;
        let networks = |toml: &str| told(toml).unwrap().discovery.sweep.map(|sweep| sweep.networks);
        assert_eq!(networks(""), Some(vec![Local]));
        assert_eq!(networks("seeds = [\"10.0.0.1\"]"), None);
        assert_eq!(networks("servers = 1"), None);
        assert_eq!(networks("[discovery]\nmdns = \"on\""), None);
        assert_eq!(networks("[discovery]\nsweep.networks = []"), None);
        assert_eq!(
            networks("seeds = [\"10.0.0.1\"]\n[discovery]\nsweep.networks = [\"local\"]"),
            Some(vec![Local])
        );
        // A machine that looks for others is not one for itself.
        let one = told("servers = 1\nfounders = 1\n[discovery]\nmdns = \"on\"").unwrap();
        assert!(one.looks_for_peers());
    }

    #[test]
    fn every_source_is_read() {
        let all = discovery(
            "[discovery]\nmdns = \"on\"\nfile = \"/run/peers\"\n[discovery.dns]\nnames = [\"_muster._udp.example.org\", \"peers.example.org\"]\n\
             servers = [\"10.0.0.53\"]\n[discovery.sweep]\nnetworks = [\"local\", \"10.1.0.0/20\"]\nrate = 100\n[discovery.exec]\n\
             command = [\"/usr/local/bin/peers\", \"--all\"]\n[discovery.aws]\nfind = \"group\"\nregion = \"eu-west-1\"\n\
             [discovery.hetzner]\nfind = \"label:role=k3s\"\ntoken-file = \"/etc/muster/hetzner\"\n[discovery.digitalocean]\nfind = \"none\"\n",
        );
        assert_eq!(all.dns.unwrap().names.len(), 2);
        assert_eq!(
            all.sweep.unwrap().networks[1],
            super::SweepNetwork::Of(super::Network::parse("10.1.0.0/20").unwrap())
        );
        assert_eq!(all.exec.unwrap().command.len(), 2);
        let clouds: Vec<_> = all.clouds.iter().map(|cloud| (cloud.kind.word(), cloud.find.clone())).collect();
        assert_eq!(clouds[0], ("aws", super::Find::Group));
        assert_eq!(clouds[1], ("hetzner", super::Find::Tag("role".into(), Some("k3s".into()))));
        assert_eq!(clouds[2], ("digitalocean", super::Find::Metadata));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (toml, wanted) in [
            ("sweep.networks = [\"10.0.0.0/15\"]", "larger than /16"),
            ("sweep.networks = [\"10.0.0.0/8\"]", "larger than /16"),
            ("sweep.networks = [\"10.0.0.1/20\"]", "bits are set behind the prefix"),
            ("sweep.networks = [\"everything\"]", "allowed are local and networks"),
            ("sweep.networks = [\"fd00::/64\"]", "multicast"),
            ("sweep.rate = 1000000", "16 to 10000"),
            ("mdns = \"maybe\"", "allowed are on and off"),
            ("dns.names = [\"-\"]", "not an address and not a DNS name"),
            ("dns.servers = [\"dns.example.org\"]", "allowed are address"),
            ("exec.command = [\"peers\"]", "must be absolute"),
            ("file = \"peers\"", "must be absolute"),
            ("aws.find = \"groups\"", "allowed are group, tag:NAME=VALUE"),
            ("digitalocean.find = \"group\"", "allowed are tag:NAME, and none"),
            ("hetzner.find = \"label:a=b\"", "discovery.hetzner.token-file"),
            ("openstack.find = \"metadata:a=b\"", "discovery.openstack.secret-file"),
            ("aws.endpoint = \"https://user:pass@example.org\"", "must not hold a user name"),
            ("aws.finds = \"group\"", "did you mean `discovery.aws.find`?"),
            ("sweeep.rate = 5", "unknown key"),
            ("aws = 5", "must be a section"),
        ] {
            let said =
                told(&format!("seeds = [\"10.0.0.1\"]\n[discovery]\n{toml}\n")).err().unwrap_or_default();
            assert!(said.contains(wanted), "{toml}: {said}");
        }
    }
}
