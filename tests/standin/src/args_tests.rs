use super::*;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn with_files(main: &str, drop_ins: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, main).unwrap();
    let d = dir.path().join("config.yaml.d");
    std::fs::create_dir(&d).unwrap();
    for (name, text) in drop_ins {
        std::fs::write(d.join(name), text).unwrap();
    }
    let path = file.to_string_lossy().into_owned();
    (dir, path)
}

#[test]
fn command_line_beats_files_and_files_beat_the_environment() {
    let (_dir, file) = with_files("node-name: file\ntoken: file-token\n", &[]);
    let env = |name: &str| match name {
        "K3S_NODE_NAME" => Some("env".to_owned()),
        "K3S_TOKEN" => Some("env-token".to_owned()),
        "K3S_URL" => Some("https://env:6443".to_owned()),
        _ => None,
    };
    let parsed = parse("server", &strings(&["--config", &file, "--node-name=cli"]), &env).unwrap();
    assert_eq!(parsed.value("node-name"), Some("cli"));
    assert_eq!(parsed.value("token"), Some("file-token"));
    assert_eq!(parsed.value("server"), Some("https://env:6443"));
}

#[test]
fn drop_ins_replace_in_name_order_and_plus_appends() {
    let (_dir, file) = with_files(
        "tls-san: [a]\ndisable:\n- traefik\ncluster-init: true\n",
        &[
            ("20.yaml", "tls-san+: [c]\n"),
            ("10.yaml", "tls-san+: b\ncluster-init: false\n"),
            ("x.txt", "server: no"),
        ],
    );
    let parsed = parse("server", &strings(&["-c", &file, "--tls-san", "d,e"]), &|_| None).unwrap();
    assert_eq!(parsed.list("tls-san"), ["a", "b", "c", "d", "e"]);
    assert!(!parsed.is_set("cluster-init"));
    assert_eq!(parsed.value("server"), None);
}

#[test]
fn json_is_read_as_yaml() {
    let (_dir, file) = with_files("{\"cluster-init\": true, \"disable\": [\"traefik\", \"coredns\"]}", &[]);
    let parsed = parse("server", &strings(&["-c", &file]), &|_| None).unwrap();
    assert!(parsed.is_set("cluster-init"));
    assert_eq!(parsed.list("disable"), ["traefik", "coredns"]);
}

#[test]
fn a_server_skips_unknown_keys_and_an_agent_dies_of_them() {
    let (_dir, file) = with_files("cluster-init: true\nno-such-key: 1\n", &[]);
    let parsed = parse("server", &strings(&["-c", &file]), &|_| None).unwrap();
    assert_eq!(parsed.unknown, ["--no-such-key"]);
    let error = parse("agent", &strings(&["-c", &file]), &|_| None).err().unwrap();
    assert_eq!(error, "flag provided but not defined: -cluster-init");
}

#[test]
fn unknown_command_line_options_are_errors_for_both() {
    for command in ["server", "agent"] {
        let error = parse(command, &strings(&["-c", "/nonexistent", "--wat"]), &|_| None).err().unwrap();
        assert_eq!(error, "flag provided but not defined: -wat");
    }
}

#[test]
fn an_empty_value_is_no_value() {
    let (_dir, file) = with_files("server: \"\"\ntoken:\n", &[]);
    let parsed = parse("server", &strings(&["-c", &file]), &|_| None).unwrap();
    assert_eq!(parsed.value("server"), None);
    assert_eq!(parsed.value("token"), None);
}
