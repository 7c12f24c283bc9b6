use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

/// Everything below a directory: links by their target, files by their content.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap();
            let said = if kind.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                todo.push(path.clone());
                "directory".to_owned()
            } else {
                fs::read_text(&path).unwrap().unwrap()
            };
            all.insert(path.strip_prefix(root).unwrap().to_owned(), said);
        }
    }
    all
}

/// A file in an image, with its directories; not where a link stands in the way.
fn lay(image: &Path, path: &str, put: impl FnOnce(&Path) -> std::io::Result<()>) {
    let at = image.join(path.trim_start_matches('/'));
    let linked = |at: &Path| at.ancestors().skip(1).any(|up| up.starts_with(image) && up.is_symlink());
    if !linked(&at) && fs::create_directory(at.parent().unwrap(), 0o755).is_ok() {
        // Something may stand there already.
        let _ = put(&at);
    }
}

fn file(image: &Path, path: &str, content: &str) {
    lay(image, path, |at| fs::write_volatile(at, content.as_bytes(), 0o644).map_err(std::io::Error::other));
}

fn link(image: &Path, path: &str, target: &str) {
    lay(image, path, |at| symlink(target, at));
}

/// Sealing without its sync of the whole disk, which on a busy machine takes seconds.
fn seal(order: &Order) -> Result<Sealed, ImageError> {
    sealed(order, |_| Ok(()))
}

fn order(root: &Path) -> Order {
    Order { root: root.to_owned(), ..Order::default() }
}

fn rows(verified: &Verified) -> Vec<&'static str> {
    verified.findings.iter().map(|finding| finding.row).collect()
}

#[test]
fn every_place_of_every_row_is_found_alone_and_gone_after_sealing() {
    let mut tried = 0;
    for row in ROWS {
        for place in row.places {
            let path = match place {
                Place::Gone(pattern) => pattern.replace('*', "x"),
                Place::Bare(path, _) | Place::NoFiles(path) => format!("{path}/some/thing"),
                Place::Blank(path) | Place::LinkTo(path, _) | Place::Renewed(path, ..) => (*path).to_owned(),
                Place::ConfiguredTokens | Place::ConfiguredState | Place::TokenText => continue,
            };
            let image = tempfile::tempdir().unwrap();
            file(image.path(), "/etc/fstab", "kept");
            file(image.path(), &path, "of a machine");
            let verified = verify(&order(image.path())).unwrap();
            // A path may serve two rows; the first of them speaks.
            assert_eq!(verified.findings.len(), 1, "{path}: {verified:?}");
            let sealed = seal(&order(image.path())).unwrap();
            assert_eq!(sealed.verified.findings, [], "{path}");
            assert!(!sealed.done.is_empty(), "{path}");
            assert!(image.path().join("etc/fstab").exists());
            tried += 1;
        }
    }
    assert!(tried > 50, "{tried}");
}

/// What a server leaves behind: everything that is known to be written by systemd, cloud-init, k3s, Muster and a person.
fn used_machine() -> tempfile::TempDir {
    let temporary = tempfile::tempdir().unwrap();
    let image = temporary.path();
    for path in [
        "/etc/machine-id",
        "/etc/hostname",
        "/etc/muster/token",
        "/etc/ssh/ssh_host_ed25519_key",
        "/etc/ssh/ssh_host_ed25519_key.pub",
        "/etc/rancher/k3s/config.yaml",
        "/etc/rancher/k3s/muster-server-token",
        "/etc/rancher/node/password",
        "/etc/systemd/system/k3s.service",
        "/var/lib/muster/ledger.json",
        "/var/lib/muster/ledger.json.of-another-machine",
        "/var/lib/muster/lock",
        "/var/lib/rancher/k3s/server/db/etcd/member/wal/0.wal",
        "/var/lib/rancher/k3s/server/tls/server-ca.key",
        "/var/lib/rancher/k3s/server/token",
        "/var/lib/rancher/k3s/agent/client-kubelet.key",
        "/var/lib/rancher/k3s-discarded-1/server/db/etcd/x",
        "/var/lib/cloud/instances/i-1/user-data.txt",
        "/var/lib/systemd/random-seed",
        "/var/log/journal/0123/system.journal",
        "/var/log/syslog",
        "/var/log/apt/history.log",
        "/root/.bash_history",
        "/root/.ssh/authorized_keys",
        "/home/ada/.ssh/id_ed25519",
        "/tmp/packer-shell",
    ] {
        file(image, path, "of a machine");
    }
    link(image, "/etc/systemd/system/multi-user.target.wants/k3s.service", "/etc/systemd/system/k3s.service");
    link(image, "/var/lib/cloud/instance", "/var/lib/cloud/instances/i-1");
    for path in KEPT {
        file(image, path, "of the image");
    }
    temporary
}

const KEPT: [&str; 8] = [
    "/etc/fstab",
    "/etc/muster/muster.toml.example",
    "/etc/systemd/system/muster.service",
    "/opt/muster/k3s/k3s",
    "/var/lib/muster/host-journal.jsonl",
    "/var/lib/rancher/k3s/agent/images/k3s-airgap-images-amd64.tar.zst",
    "/var/lib/rancher/k3s/server/manifests/mine.yaml",
    "/usr/local/bin/muster",
];

#[test]
fn of_a_used_server_nothing_stays_but_what_the_image_brought() {
    let image = used_machine();
    let refused = verify(&order(image.path())).unwrap();
    for class in [Class::Secret, Class::Identity, Class::K3s, Class::Trace] {
        assert!(refused.findings.iter().any(|finding| finding.class == class), "{class:?}");
    }
    let before = snapshot(image.path());
    assert_eq!(verify(&order(image.path())).unwrap(), refused);
    assert_eq!(snapshot(image.path()), before, "verifying changed something");
    let sealed = super::seal(&order(image.path())).unwrap();
    assert_eq!(sealed.verified.findings, []);
    let files: Vec<String> = snapshot(image.path())
        .into_iter()
        .filter(|(_, said)| said != "directory")
        .map(|(path, _)| format!("/{}", path.display()))
        .collect();
    let mut wanted: Vec<String> = KEPT.iter().map(|path| (*path).to_owned()).collect();
    wanted.push("/etc/machine-id".to_owned());
    wanted.sort();
    assert_eq!(files, wanted);
    assert_eq!(std::fs::metadata(image.path().join("etc/machine-id")).unwrap().len(), 0);
    let again = seal(&order(image.path())).unwrap();
    assert_eq!((again.done.len(), again.verified.findings.len()), (0, 0));
}

#[test]
fn a_seal_that_was_cut_off_is_found_out_and_goes_on_where_it_ended() {
    let whole = used_machine();
    seal(&order(whole.path())).unwrap();
    let wanted = snapshot(whole.path());
    let count = Opened::of(&order(used_machine().path())).unwrap().survey().offences.len();
    for cut in 0..count {
        let image = used_machine();
        let opened = Opened::of(&order(image.path())).unwrap();
        for offence in &opened.survey().offences[..cut] {
            perform(&opened.tree, offence).unwrap();
        }
        assert_ne!(verify(&order(image.path())).unwrap().findings, [], "cut off after {cut} of {count}");
        assert_eq!(seal(&order(image.path())).unwrap().verified.findings, []);
        assert_eq!(snapshot(image.path()), wanted);
    }
}

#[test]
fn secrets_are_found_where_the_configuration_puts_them_and_where_they_stand_as_text() {
    let image = tempfile::tempdir().unwrap();
    let root = image.path();
    file(
        root,
        "/etc/muster/muster.toml",
        "token-file = \"/srv/secret\"\nstate-dir = \"/etc\"\n[k3s]\ndata-dir = \"/data\"\n",
    );
    file(root, "/srv/secret", "correct horse");
    link(root, "/etc/credstore/muster.token", "/persist/token");
    file(root, "/persist/token", "correct horse");
    file(root, "/etc/ledger.json", "{}");
    file(root, "/etc/passwd", "root");
    file(root, "/data/server/db/x", "etcd");
    file(root, "/data/agent/images/x.tar", "image");
    file(root, "/etc/default/k3s", "K3S_TOKEN=correct-horse-battery\n");
    file(root, "/usr/share/doc/k3s", "K3S_TOKEN=correct-horse-battery\n");
    file(root, "/usr/bin/tool", "some bytes and correct-horse-battery-staple in it");
    assert_eq!(rows(&verify(&order(root)).unwrap()), ["token", "ledger", "token-text"]);
    let sealed = seal(&order(root)).unwrap();
    // The file is the operator's own: it is named, and never cut.
    assert_eq!(rows(&sealed.verified), ["token-text"]);
    let line = render_sealed(&sealed);
    assert!(line.contains("secret token-text: /etc/default/k3s: a value of K3S_TOKEN"), "{line}");
    assert!(!line.contains("correct"), "{line}");
    let left = snapshot(root);
    for gone in
        ["srv/secret", "etc/credstore/muster.token", "persist/token", "etc/ledger.json", "data/server/db"]
    {
        assert!(!left.contains_key(Path::new(gone)), "{gone}");
    }
    for kept in ["etc/passwd", "data/agent/images/x.tar", "etc/default/k3s"] {
        assert!(left.contains_key(Path::new(kept)), "{kept}");
    }
    // A known secret is searched for in every file, programs included.
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write_volatile(secret.path(), b"correct-horse-battery-staple\n", 0o600).unwrap();
    let known = Order { secret_file: Some(secret.path().to_owned()), ..order(root) };
    let found = verify(&known).unwrap();
    assert!(found.findings.iter().any(|finding| finding.path == Path::new("/usr/bin/tool")), "{found:?}");
    fs::write_volatile(secret.path(), b"short\n", 0o600).unwrap();
    assert!(matches!(verify(&known), Err(ImageError::Secret { .. })));
}

#[test]
fn what_cannot_be_looked_at_is_not_clean() {
    let image = tempfile::tempdir().unwrap();
    link(image.path(), "/var/log", "log");
    file(image.path(), "/etc/muster/muster.toml", "token-file = \"/srv/x");
    let verified = verify(&order(image.path())).unwrap();
    assert_eq!(rows(&verified), ["token", "kubelet", "kubelet", "cloud-init", "logs", "logs"]);
    assert!(verified.findings.iter().any(|finding| finding.what.contains("no TOML")), "{verified:?}");
    assert!(verified.findings.iter().any(|finding| finding.what.contains("cannot")), "{verified:?}");
    assert!(verify(&order(Path::new("/no/such/image"))).is_err());
}

#[test]
fn a_link_to_a_disk_of_its_own_is_named_and_never_lost() {
    let image = tempfile::tempdir().unwrap();
    file(image.path(), "/data/etcd/member/wal", "x");
    link(image.path(), "/var/lib/rancher/k3s/server/db", "/data/etcd");
    for _ in 0..2 {
        let sealed = seal(&order(image.path())).unwrap();
        assert_eq!(rows(&sealed.verified), ["k3s-data"]);
        assert!(render_sealed(&sealed).contains("remove both"), "{}", render_sealed(&sealed));
    }
}

#[test]
fn only_traces_are_kept_and_what_runs_is_not_sealed() {
    let image = tempfile::tempdir().unwrap();
    file(image.path(), "/root/.ssh/authorized_keys", "ours");
    file(image.path(), "/var/log/syslog", "x");
    let kept = Order { keep: vec!["authorized-keys".to_owned()], ..order(image.path()) };
    let sealed = seal(&kept).unwrap();
    assert_eq!(sealed.done.len(), 1);
    assert_eq!(sealed.verified.kept, ["authorized-keys"]);
    assert!(image.path().join("root/.ssh/authorized_keys").exists());
    for (name, words) in [("token", "never kept"), ("nonsense", "no such row")] {
        let error = seal(&Order { keep: vec![name.to_owned()], ..order(image.path()) }).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    // This machine, by whatever name: not without its flag.
    for root in ["/", "/proc/self/root", "/usr/.."] {
        let error = seal(&order(Path::new(root))).unwrap_err();
        assert!(matches!(error, ImageError::Refused(_)), "{root}: {error}");
    }
}

#[test]
fn a_machine_id_that_is_a_link_to_what_another_row_renews_becomes_a_file_of_its_own() {
    let initiator = "/etc/iscsi/initiatorname.iscsi";
    for content in ["", "uninitialized\n", "InitiatorName=iqn.2026-01.lab:one\n", "GenerateName=yes\n"] {
        let image = tempfile::tempdir().unwrap();
        file(image.path(), initiator, content);
        link(image.path(), "/etc/machine-id", initiator);
        let sealed = seal(&order(image.path())).unwrap();
        assert_eq!(sealed.verified.findings, [], "{content}");
        let id = std::fs::symlink_metadata(image.path().join("etc/machine-id")).unwrap();
        assert!(id.is_file() && id.len() == 0, "{content}");
        let renewed = fs::read_text(&image.path().join(&initiator[1..])).unwrap();
        assert_eq!(renewed.as_deref(), Some("GenerateName=yes\n"), "{content}");
    }
}

/// Paths that rows speak of, and paths that no row speaks of.
const SPOKEN: [&str; 24] = [
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/etc/muster/token",
    "/etc/credstore/muster.token",
    "/var/lib/muster/ledger.json",
    "/var/lib/muster",
    "/var/lib/rancher/k3s/server/db/etcd/wal",
    "/var/lib/rancher/k3s/server/db",
    "/var/lib/rancher/k3s/server/tls",
    "/var/lib/rancher/k3s/agent",
    "/var/lib/rancher/k3s/agent/kubelet.key",
    "/etc/rancher/node/password",
    "/etc/rancher/k3s",
    "/etc/ssh/ssh_host_rsa_key",
    "/var/lib/cloud/instance",
    "/var/lib/dhcp/lease",
    "/var/log",
    "/var/log/a/b",
    "/root/.ssh/authorized_keys",
    "/home/ada",
    "/home/ada/.bash_history",
    "/etc/hostname",
    "/etc/iscsi/initiatorname.iscsi",
    "/tmp/x/y",
];
const UNSPOKEN: [&str; 6] = [
    "/etc/fstab",
    "/srv/a",
    "/srv/b/c",
    "/usr/bin/tool",
    "/var/lib/rancher/k3s/agent/images/x",
    "/var/lib/muster/host-journal.jsonl",
];

#[derive(Debug, Clone)]
enum Laid {
    File(&'static str),
    Link(String),
}

fn laid() -> impl Strategy<Value = (&'static str, Laid)> {
    let path = prop_oneof![3 => prop::sample::select(&SPOKEN[..]), 1 => prop::sample::select(&UNSPOKEN[..])];
    let inner = prop_oneof![prop::sample::select(&SPOKEN[..]), prop::sample::select(&UNSPOKEN[..])];
    let target = (
        inner,
        prop::sample::select(
            &["", "../outside", "../../outside", "../../../../../../outside", ".", "OUTSIDE"][..],
        ),
    )
        .prop_map(|(path, way)| match way {
            "" => path.to_owned(),
            way => format!("{way}{path}"),
        });
    let what = prop_oneof![
        prop::sample::select(&["", "uninitialized\n", "of a machine", "K3S_TOKEN=correct-horse-battery"][..])
            .prop_map(Laid::File),
        target.prop_map(Laid::Link),
    ];
    (path, what)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever an image holds, and wherever its links lead: nothing outside of it is touched; what no row speaks of stays, unless a
    /// link of a row leads to it; what is left after sealing is what no seal removes; and a second seal changes nothing.
    #[test]
    fn sealing_stays_inside_ends_and_says_what_it_leaves(all in prop::collection::vec(laid(), 0..14)) {
        let place = tempfile::tempdir().unwrap();
        let (image, outside) = (place.path().join("image"), place.path().join("outside"));
        for directory in [&image, &outside] {
            fs::create_directory(directory, 0o755).unwrap();
        }
        for path in SPOKEN.iter().chain(&UNSPOKEN) {
            file(&outside, path, "not yours");
        }
        let mut aims = Vec::new();
        for (path, what) in &all {
            match what {
                Laid::File(content) => file(&image, path, content),
                Laid::Link(target) => {
                    aims.push(target.clone());
                    link(&image, path, &target.replace("OUTSIDE", outside.to_str().unwrap()));
                }
            }
        }
        let (inside_before, outside_before) = (snapshot(&image), snapshot(&outside));
        let refused = verify(&order(&image)).unwrap();
        prop_assert_eq!(&snapshot(&image), &inside_before);
        let sealed = seal(&order(&image)).unwrap();
        prop_assert_eq!(&snapshot(&outside), &outside_before);
        prop_assert_eq!(&sealed.verified, &verify(&order(&image)).unwrap());
        for finding in &sealed.verified.findings {
            prop_assert!(!finding.next.contains("`muster image seal` removes it"), "{:?}", finding);
        }
        if refused.findings.is_empty() {
            prop_assert_eq!(&sealed.done, &[]);
        }
        let after = snapshot(&image);
        let again = seal(&order(&image)).unwrap();
        prop_assert_eq!(&again.done, &[]);
        prop_assert_eq!(&snapshot(&image), &after);
        for path in UNSPOKEN.iter().filter(|path| !aims.iter().any(|aim| aim.ends_with(**path))) {
            let key = Path::new(path.trim_start_matches('/'));
            prop_assert_eq!(after.get(key), inside_before.get(key), "{}", path);
        }
    }
}

#[test]
fn the_document_holds_the_generated_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images.md");
    let text = fs::read_text(&path).unwrap().unwrap_or_default();
    let open = "<!-- seal: begin (generated) -->\n";
    let begin = text.find(open).expect("the table's beginning") + open.len();
    let end = text.find("<!-- seal: end -->\n").expect("the table's end");
    if std::env::var_os("MUSTER_BLESS").is_some() {
        let new = format!("{}{}{}", &text[..begin], document_table(), &text[end..]);
        fs::write_volatile(&path, new.as_bytes(), 0o644).unwrap();
        return;
    }
    assert!(
        text[begin..end] == document_table(),
        "the table of docs/images.md is not generated; run with MUSTER_BLESS=1"
    );
}
