//! Moves over real directories, interrupted anywhere.

use super::*;
use crate::edge::fs::{create_directory, write_atomic};

fn put(path: &Path) {
    create_directory(path.parent().unwrap(), 0o755).unwrap();
    write_atomic(path, path.display().to_string().as_bytes(), 0o600).unwrap();
}

/// A host that ran a provisional cluster, on an image that brought its own images and manifests.
fn host() -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::under(root.path());
    for file in [
        "server/db/etcd/member/wal/0.wal",
        "server/db/etcd/name",
        "server/db/snapshots/one",
        "server/tls/server-ca.crt",
        "server/token",
        "server/manifests/mine.yaml",
        "agent/client-kubelet.crt",
        "agent/etc/k3s-agent-load-balancer.json",
        "agent/images/airgap.tar",
        "agent/containerd/state",
        "data/current",
    ] {
        put(&paths.data_dir.join(file));
    }
    put(&paths.node_password());
    (root, paths)
}

fn planned(reach: Reach, paths: &Paths) -> Vec<Move> {
    plan(reach, look(paths).yes().unwrap(), paths)
}

/// Every file under the root, with what is in it, sorted.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_ties_to_a_cluster_goes_and_what_the_image_brought_stays() {
    let (root, paths) = host();
    perform(&planned(Reach::WholeCluster, &paths)).unwrap();
    assert_eq!(
        files(root.path()),
        [
            "etc/rancher/node/password-discarded-1",
            "var/lib/rancher/k3s-discarded-1/agent/client-kubelet.crt",
            "var/lib/rancher/k3s-discarded-1/agent/etc/k3s-agent-load-balancer.json",
            "var/lib/rancher/k3s-discarded-1/server/db/etcd/member/wal/0.wal",
            "var/lib/rancher/k3s-discarded-1/server/db/etcd/name",
            "var/lib/rancher/k3s-discarded-1/server/db/snapshots/one",
            "var/lib/rancher/k3s-discarded-1/server/tls/server-ca.crt",
            "var/lib/rancher/k3s-discarded-1/server/token",
            "var/lib/rancher/k3s/agent/containerd/state",
            "var/lib/rancher/k3s/agent/images/airgap.tar",
            "var/lib/rancher/k3s/data/current",
            "var/lib/rancher/k3s/server/manifests/mine.yaml",
        ]
    );
    assert_eq!(planned(Reach::WholeCluster, &paths), []);
}

#[test]
fn the_database_goes_first_and_an_interrupted_discard_is_finished_by_the_next() {
    let whole = planned(Reach::WholeCluster, &host().1).len();
    for done in 0..whole {
        let (root, paths) = host();
        let moves = planned(Reach::WholeCluster, &paths);
        assert!(moves[0].from.ends_with("server/db"));
        perform(&moves[..done]).unwrap();
        let rest = planned(Reach::WholeCluster, &paths);
        assert_eq!(rest.len(), whole - done, "{done}");
        perform(&rest).unwrap();
        assert_eq!(planned(Reach::WholeCluster, &paths), []);
        assert_eq!(files(root.path()).len(), files(host().0.path()).len(), "nothing is lost");
    }
}

#[test]
fn performing_the_same_moves_twice_is_performing_them_once() {
    let (root, paths) = host();
    let moves = planned(Reach::WholeCluster, &paths);
    perform(&moves).unwrap();
    let after = files(root.path());
    perform(&moves).unwrap();
    assert_eq!(files(root.path()), after);
}

#[test]
fn a_second_discard_does_not_touch_the_first() {
    let (root, paths) = host();
    perform(&planned(Reach::WholeCluster, &paths)).unwrap();
    put(&paths.data_dir.join("server/db/etcd/member/wal/0.wal"));
    put(&paths.node_password());
    perform(&planned(Reach::WholeCluster, &paths)).unwrap();
    let all = files(root.path());
    for name in [
        "var/lib/rancher/k3s-discarded-1/server/db/etcd/name",
        "var/lib/rancher/k3s-discarded-2/server/db/etcd/member/wal/0.wal",
        "etc/rancher/node/password-discarded-1",
        "etc/rancher/node/password-discarded-2",
    ] {
        assert!(all.iter().any(|file| file == name), "{name} in {all:?}");
    }
}

#[test]
fn a_removed_member_gives_up_its_database_and_nothing_else() {
    let (root, paths) = host();
    perform(&planned(Reach::Database, &paths)).unwrap();
    let moved: Vec<String> =
        files(root.path()).into_iter().filter(|file| file.contains("discarded")).collect();
    assert_eq!(
        moved,
        [
            "var/lib/rancher/k3s-discarded-1/server/db/etcd/member/wal/0.wal",
            "var/lib/rancher/k3s-discarded-1/server/db/etcd/name"
        ]
    );
}

#[test]
fn nothing_is_planned_across_a_file_system() {
    let paths = Paths::under(Path::new("/"));
    let base = Names {
        beside: vec!["k3s".into(), "k3s-discarded-7".into()],
        server: vec!["db".into(), "tls".into()],
        db: vec!["etcd".into(), "lost+found".into(), "discarded-2".into()],
        ..Names::default()
    };
    let show = |names: &Names| -> Vec<String> {
        plan(Reach::WholeCluster, names, &paths)
            .iter()
            .map(|m| format!("{} {}", m.from.display(), m.to.display()))
            .collect()
    };
    assert_eq!(
        show(&base),
        [
            "/var/lib/rancher/k3s/server/db /var/lib/rancher/k3s-discarded-8/server/db",
            "/var/lib/rancher/k3s/server/tls /var/lib/rancher/k3s-discarded-8/server/tls"
        ]
    );
    assert_eq!(
        show(&Names { data_is_mount: true, ..base.clone() }),
        [
            "/var/lib/rancher/k3s/server/db /var/lib/rancher/k3s/discarded-1/server/db",
            "/var/lib/rancher/k3s/server/tls /var/lib/rancher/k3s/discarded-1/server/tls"
        ]
    );
    assert_eq!(
        show(&Names { db_is_mount: true, ..base }),
        [
            "/var/lib/rancher/k3s/server/db/etcd /var/lib/rancher/k3s/server/db/discarded-3/etcd",
            "/var/lib/rancher/k3s/server/tls /var/lib/rancher/k3s-discarded-8/server/tls"
        ]
    );
}

#[test]
fn an_empty_host_has_nothing_to_discard() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(planned(Reach::WholeCluster, &Paths::under(root.path())), []);
}
