//! The one configuration file that every host of a lab gets.

use std::fmt::Write as _;

/// What the lab sets; everything else is left to Muster's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// Name of the cluster.
    pub cluster: String,
    /// Servers wanted.
    pub servers: u8,
    /// Votes that a certificate needs, when that is not the number of servers.
    pub founders: Option<u8>,
    /// Where to look for peers.
    pub seeds: Vec<String>,
    /// Pinned version of k3s.
    pub version: String,
    /// Packaged components of k3s that are switched off.
    pub disable: Vec<String>,
    /// Arguments for the kubelet.
    pub kubelet_args: Vec<String>,
}

/// Where the token is in every host.
pub const TOKEN_FILE: &str = "/etc/muster/token";
/// Where the configuration is in every host.
pub const CONFIG_FILE: &str = "/etc/muster/muster.toml";
/// Where a scenario puts what is different on one host.
pub const DROP_IN: &str = "/etc/muster/conf.d/50-scenario.toml";
/// Where a host finds k3s and its checksums.
pub const K3S_SOURCE: &str = "/opt/muster/k3s";

impl Conf {
    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("# The same file on every host of the lab.\n");
        line(&mut text, "cluster", &quoted(&self.cluster));
        line(&mut text, "servers", &self.servers.to_string());
        if let Some(founders) = self.founders {
            line(&mut text, "founders", &founders.to_string());
        }
        if !self.seeds.is_empty() {
            line(&mut text, "seeds", &list(&self.seeds));
        }
        line(&mut text, "token-file", &quoted(TOKEN_FILE));
        text.push_str("\n[k3s]\n");
        line(&mut text, "version", &quoted(&self.version));
        line(&mut text, "sources", &list(&[K3S_SOURCE.to_owned()]));
        if !self.disable.is_empty() {
            line(&mut text, "disable", &list(&self.disable));
        }
        if !self.kubelet_args.is_empty() {
            for table in ["server-config", "agent-config"] {
                writeln!(text, "\n[k3s.{table}]").unwrap_or_default();
                line(&mut text, "kubelet-arg", &list(&self.kubelet_args));
            }
        }
        text
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    writeln!(text, "{key} = {value}").unwrap_or_default();
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.iter().map(|v| quoted(v)).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_as_the_readme_shows_it() {
        let mut conf = Conf {
            cluster: "lab".into(),
            servers: 3,
            founders: None,
            seeds: vec!["10.77.0.1".into(), "node2:7846".into()],
            version: "v1.33.1+k3s1".into(),
            disable: Vec::new(),
            kubelet_args: Vec::new(),
        };
        let small = "# The same file on every host of the lab.\n\
                     cluster = \"lab\"\n\
                     servers = 3\n\
                     seeds = [\"10.77.0.1\", \"node2:7846\"]\n\
                     token-file = \"/etc/muster/token\"\n\
                     \n\
                     [k3s]\n\
                     version = \"v1.33.1+k3s1\"\n\
                     sources = [\"/opt/muster/k3s\"]\n";
        assert_eq!(conf.render(), small);
        conf.founders = Some(4);
        let founders = small.replace("servers = 3\n", "servers = 3\nfounders = 4\n");
        assert_eq!(conf.render(), founders);
        conf.founders = None;
        conf.disable = vec!["traefik".into()];
        conf.kubelet_args = vec!["fail-cgroupv1=false".into()];
        let real = "disable = [\"traefik\"]\n\
                    \n[k3s.server-config]\n\
                    kubelet-arg = [\"fail-cgroupv1=false\"]\n\
                    \n[k3s.agent-config]\n\
                    kubelet-arg = [\"fail-cgroupv1=false\"]\n";
        assert_eq!(conf.render(), format!("{small}{real}"));
    }
}
