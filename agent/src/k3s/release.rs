//! Which file is k3s for this machine, where it may come from, and what it must be.
//!
//! Sources are tried in the order of the settings: a file or directory baked into the image, a mirror, the release site. Each
//! must come with a checksum file, its own or the one from the settings; nothing is installed without a SHA-256 that was said
//! beforehand.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::{K3sSettings, Source};

/// A processor architecture that k3s is released for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// ARM, 64 bits.
    Arm64,
    /// ARM, 32 bits.
    Arm,
}

impl Arch {
    /// The architecture that this program was built for, if k3s is released for it.
    #[must_use]
    pub fn here() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Arch::Amd64),
            "aarch64" => Some(Arch::Arm64),
            "arm" => Some(Arch::Arm),
            _ => None,
        }
    }

    /// Name of the binary in a release.
    #[must_use]
    pub fn asset(self) -> &'static str {
        match self {
            Arch::Amd64 => "k3s",
            Arch::Arm64 => "k3s-arm64",
            Arch::Arm => "k3s-armhf",
        }
    }

    /// Name of the checksum file in a release.
    #[must_use]
    pub fn sums(self) -> &'static str {
        match self {
            Arch::Amd64 => "sha256sum-amd64.txt",
            Arch::Arm64 => "sha256sum-arm64.txt",
            Arch::Arm => "sha256sum-arm.txt",
        }
    }

    /// `e_machine` in the header of its executables.
    fn elf_machine(self) -> u16 {
        match self {
            Arch::Amd64 => 62,
            Arch::Arm64 => 183,
            Arch::Arm => 40,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::Amd64 => "amd64",
            Arch::Arm64 => "arm64",
            Arch::Arm => "arm",
        })
    }
}

/// An executable that this machine cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// A web page, a script, a file cut short.
    #[error("it is not an executable for Linux (it begins with {begins:?})")]
    NotElf {
        /// Its first bytes as text.
        begins: String,
    },
    /// An executable for another machine.
    #[error("it is an executable for {found}, wanted {wanted}")]
    OtherMachine {
        /// What it is for.
        found: String,
        /// What this machine is.
        wanted: Arch,
    },
}

/// Checks the first bytes of an executable (20 are enough).
///
/// # Errors
/// When it is none, or one for another machine.
pub fn check_elf(head: &[u8], wanted: Arch) -> Result<(), ElfError> {
    let is_elf = head.len() >= 20 && head.starts_with(b"\x7fELF");
    if !is_elf {
        let begins = String::from_utf8_lossy(&head[..head.len().min(16)]).into_owned();
        return Err(ElfError::NotElf { begins });
    }
    // e_ident[EI_DATA]: 1 is little endian; e_machine stands at offset 18.
    let pair = [head[18], head[19]];
    let machine = if head[5] == 2 { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
    if machine == wanted.elf_machine() && head[5] == 1 {
        return Ok(());
    }
    let found = match machine {
        3 => "i386".to_owned(),
        22 => "s390x".to_owned(),
        21 => "ppc64".to_owned(),
        243 => "riscv64".to_owned(),
        _ => [Arch::Amd64, Arch::Arm64, Arch::Arm]
            .iter()
            .find(|arch| arch.elf_machine() == machine)
            .map_or_else(|| format!("machine {machine}"), ToString::to_string),
    };
    Err(ElfError::OtherMachine { found, wanted })
}

/// A SHA-256 in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sha256(String);

impl Sha256 {
    /// Reads 64 hexadecimal characters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let good = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        good.then(|| Self(text.to_ascii_lowercase()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The sum of the first of these names that a checksum file lists: lines of `<64 hex>  <name>`, as `sha256sum` writes them.
#[must_use]
pub fn sum_of(text: &str, names: &[&str]) -> Option<Sha256> {
    let line_for = |wanted: &str| {
        text.lines().find_map(|line| {
            let (sum, name) = line.trim().split_once(char::is_whitespace)?;
            let name = name.trim_start().trim_start_matches('*');
            let name = name.rsplit('/').next().unwrap_or(name);
            if name == wanted { Sha256::parse(sum) } else { None }
        })
    };
    names.iter().find_map(|name| line_for(name))
}

/// Where one thing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file here.
    File(PathBuf),
    /// A URL.
    Url(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Url(url) => f.write_str(url),
        }
    }
}

impl Place {
    fn file_name(&self) -> String {
        match self {
            Place::File(path) => {
                path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Place::Url(url) => url.rsplit('/').next().unwrap_or_default().to_owned(),
        }
    }
}

/// One way to get the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The binary.
    pub artefact: Place,
    /// The checksum file.
    pub sums: Place,
    /// Names under which the checksum file may list the binary, in order.
    pub names: Vec<String>,
}

/// A source that cannot be used as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Neither http nor https.
    #[error("{url} is neither a path nor an https URL")]
    Scheme {
        /// The URL.
        url: String,
    },
    /// A sum that travels in the open beside the file proves nothing.
    #[error("{url} is not https: the checksum must then come from k3s.checksums, by path or https")]
    Open {
        /// The URL.
        url: String,
    },
}

/// The candidate that a source means. `is_directory` tells a baked directory from a file.
///
/// # Errors
/// When the source cannot be used.
pub fn candidate(
    source: &Source,
    is_directory: bool,
    settings: &K3sSettings,
    arch: Arch,
) -> Result<Candidate, SourceError> {
    let (artefact, beside) = match source {
        Source::Path(path) if is_directory => {
            (Place::File(path.join(arch.asset())), Place::File(path.join(arch.sums())))
        }
        Source::Path(path) => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            (Place::File(path.clone()), Place::File(directory.join(arch.sums())))
        }
        Source::Url(base) => {
            let release = release_url(base, &settings.version);
            (
                Place::Url(format!("{release}/{}", arch.asset())),
                Place::Url(format!("{release}/{}", arch.sums())),
            )
        }
    };
    let sums = match &settings.checksums {
        None => beside,
        Some(Source::Path(path)) => Place::File(path.clone()),
        Some(Source::Url(url)) => Place::Url(url.clone()),
    };
    for place in [&artefact, &sums] {
        if let Place::Url(url) = place
            && !["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
        {
            return Err(SourceError::Scheme { url: url.clone() });
        }
    }
    if let Place::Url(url) = &sums
        && url.starts_with("http://")
    {
        return Err(SourceError::Open { url: url.clone() });
    }
    let mut names = vec![artefact.file_name()];
    if names[0] != arch.asset() {
        names.push(arch.asset().to_owned());
    }
    Ok(Candidate { artefact, sums, names })
}

/// `<base>/<version>`, with the version's `+` as the release site and its mirrors want it.
#[must_use]
pub fn release_url(base: &str, version: &str) -> String {
    format!("{}/{}", base.trim_end_matches('/'), version.replace('+', "%2B"))
}

/// What a look at the installed binary asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// The wanted binary is there.
    AlreadySo,
    /// It is to be installed, for this reason.
    Install(String),
    /// It cannot be told what is there: nothing is replaced.
    CannotTell(String),
}

/// Whether a binary must be installed: by its sum when the wanted one is known, else by its version.
#[must_use]
pub fn need(
    installed: &crate::core::Known<super::facts::Binary>,
    version: &str,
    wanted: Option<&Sha256>,
) -> Need {
    use crate::core::Known;
    let binary = match installed {
        Known::Absent => return Need::Install("no k3s binary is installed".into()),
        Known::Unknown(unread) => return Need::CannotTell(unread.to_string()),
        Known::Yes(binary) => binary,
    };
    if let (Some(wanted), Known::Yes(found)) = (wanted, &binary.sha256)
        && found != wanted.as_str()
    {
        return Need::Install(format!("the installed k3s has SHA-256 {found}, wanted {wanted}"));
    }
    match &binary.version {
        Known::Yes(found) if found == version => Need::AlreadySo,
        Known::Yes(found) => Need::Install(format!("k3s {found} is installed, wanted {version}")),
        Known::Absent => Need::Install("the installed k3s does not tell its version".into()),
        Known::Unknown(unread) => Need::CannotTell(unread.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Binary;
    use super::*;
    use crate::core::Known;

    fn elf(machine: u16, data: u8) -> Vec<u8> {
        let mut head = vec![0_u8; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, data]);
        let bytes = if data == 2 { machine.to_be_bytes() } else { machine.to_le_bytes() };
        head[18..20].copy_from_slice(&bytes);
        head
    }

    #[test]
    fn another_machines_executable_is_named() {
        assert_eq!(check_elf(&elf(62, 1), Arch::Amd64), Ok(()));
        assert_eq!(check_elf(&elf(183, 1), Arch::Arm64), Ok(()));
        let cases = [
            (elf(183, 1), "it is an executable for arm64, wanted amd64"),
            (elf(22, 2), "it is an executable for s390x, wanted amd64"),
            (elf(999, 1), "it is an executable for machine 999, wanted amd64"),
            (
                b"<html>404 Not Found</html>".to_vec(),
                "it is not an executable for Linux (it begins with \"<html>404 Not Fo\")",
            ),
            (b"\x7fELF".to_vec(), "it is not an executable for Linux (it begins with \"\\u{7f}ELF\")"),
        ];
        for (head, text) in cases {
            assert_eq!(check_elf(&head, Arch::Amd64).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn the_sum_is_that_of_the_binary_and_not_of_the_images() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text = format!("{a}  k3s-airgap-images-amd64.tar\n{b}  k3s\n");
        assert_eq!(sum_of(&text, &["k3s"]).unwrap().as_str(), b);
        assert_eq!(sum_of(&text, &["k3s-v1.33", "k3s"]).unwrap().as_str(), b);
        assert_eq!(sum_of(&format!("{b} *./dist/k3s\n"), &["k3s"]).unwrap().as_str(), b);
        assert_eq!(sum_of(&text, &["k3s-arm64"]), None);
        assert_eq!(sum_of("short  k3s\n", &["k3s"]), None);
        assert_eq!(sum_of("<html>", &["k3s"]), None);
    }

    fn settings(checksums: Option<Source>) -> K3sSettings {
        K3sSettings {
            version: "v1.33.1+k3s1".into(),
            sources: Vec::new(),
            checksums,
            data_dir: "/var/lib/rancher/k3s".into(),
            cluster_cidr: String::new(),
            service_cidr: String::new(),
            cluster_dns: None,
            cluster_domain: String::new(),
            flannel_backend: String::new(),
            disable: Vec::new(),
            tls_san: Vec::new(),
            token: None,
            agent_token: None,
            server_config: Default::default(),
            agent_config: Default::default(),
        }
    }

    #[test]
    fn every_source_leads_to_its_file_and_its_sums() {
        let plain = settings(None);
        let show = |c: Candidate| (c.artefact.to_string(), c.sums.to_string(), c.names.join(","));
        let path = |p: &str| Source::Path(p.into());
        assert_eq!(
            show(candidate(&path("/opt/k3s"), true, &plain, Arch::Arm64).unwrap()),
            ("/opt/k3s/k3s-arm64".into(), "/opt/k3s/sha256sum-arm64.txt".into(), "k3s-arm64".into())
        );
        assert_eq!(
            show(candidate(&path("/opt/k3s-v1.33"), false, &plain, Arch::Amd64).unwrap()),
            ("/opt/k3s-v1.33".into(), "/opt/sha256sum-amd64.txt".into(), "k3s-v1.33,k3s".into())
        );
        let url = Source::Url("https://mirror/k3s/".into());
        assert_eq!(
            show(candidate(&url, false, &plain, Arch::Amd64).unwrap()),
            (
                "https://mirror/k3s/v1.33.1%2Bk3s1/k3s".into(),
                "https://mirror/k3s/v1.33.1%2Bk3s1/sha256sum-amd64.txt".into(),
                "k3s".into()
            )
        );
        let own = settings(Some(path("/etc/muster/sums")));
        assert_eq!(candidate(&url, false, &own, Arch::Amd64).unwrap().sums.to_string(), "/etc/muster/sums");
    }

    #[test]
    fn a_sum_that_travels_in_the_open_is_refused() {
        let open = Source::Url("http://mirror".into());
        assert!(matches!(
            candidate(&open, false, &settings(None), Arch::Amd64),
            Err(SourceError::Open { .. })
        ));
        let own = settings(Some(Source::Path("/sums".into())));
        assert!(candidate(&open, false, &own, Arch::Amd64).is_ok());
        let odd = Source::Url("ftp://mirror".into());
        assert!(matches!(candidate(&odd, false, &own, Arch::Amd64), Err(SourceError::Scheme { .. })));
    }

    #[test]
    fn what_cannot_be_told_is_not_replaced() {
        let sum = Sha256::parse(&"a".repeat(64)).unwrap();
        let binary = |version: Known<String>, sha: &str| {
            Known::Yes(Binary { version, version_line: Known::Absent, sha256: Known::Yes(sha.repeat(64)) })
        };
        let v = |text: &str| Known::Yes(text.to_owned());
        let wanted = "v1.33.1+k3s1";
        assert!(matches!(need(&Known::Absent, wanted, None), Need::Install(_)));
        assert!(matches!(need(&Known::unknown("x", "y"), wanted, None), Need::CannotTell(_)));
        assert_eq!(need(&binary(v(wanted), "a"), wanted, Some(&sum)), Need::AlreadySo);
        assert_eq!(need(&binary(v(wanted), "b"), wanted, None), Need::AlreadySo);
        assert!(matches!(need(&binary(v(wanted), "b"), wanted, Some(&sum)), Need::Install(_)));
        assert!(matches!(need(&binary(v("v1.32.0+k3s1"), "a"), wanted, None), Need::Install(_)));
        assert!(matches!(need(&binary(Known::unknown("x", "y"), "a"), wanted, None), Need::CannotTell(_)));
    }
}
