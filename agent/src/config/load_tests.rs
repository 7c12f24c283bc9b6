//! From files, environment and flags beneath a root to settings, or to lines about what is wrong.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::config::{Seed, table};
use crate::edge::fs;

const TOKEN: &str = "canary-0123456789abcdef";

/// A root directory with files in it.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// With a token where the documentation puts it.
    fn with_token() -> Self {
        let root = Self::new();
        root.put("/etc/muster/token", &format!("{TOKEN}\n"));
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_directory(path.parent().expect("a parent"), 0o755).expect("a directory");
        fs::write_atomic(&path, text.as_bytes(), 0o600).expect("a file");
    }

    fn chmod(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), std::fs::Permissions::from_mode(mode)).expect("a mode");
    }

    fn load(&self, env: &[(&str, &str)], flags: &Flags) -> Result<Loaded, ConfigErrors> {
        load(self.0.path(), &Env::of(env), flags)
    }

    fn loaded(&self) -> Loaded {
        self.load(&[], &Flags::default()).unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn refused(&self) -> Vec<String> {
        lines(&self.load(&[], &Flags::default()).expect_err("a refusal"))
    }
}

fn lines(errors: &ConfigErrors) -> Vec<String> {
    errors.problems.iter().map(ConfigError::line).collect()
}

fn row<'a>(rows: &'a [Shown], key: &str) -> &'a Shown {
    rows.iter().find(|row| row.key == key).expect("a row")
}

const TOKEN_FILE: &str = "token-file = \"/etc/muster/token\"\n";

#[test]
fn precedence_from_the_vendor_to_the_command_line() {
    let root = Root::with_token();
    let mut printed = Vec::new();
    let mut env = Vec::new();
    let mut flags = Flags::default();
    let mut print = |env: &[(&str, &str)], flags: &Flags| {
        let loaded = root.load(env, flags).unwrap_or_else(|errors| panic!("{errors}"));
        let row = row(&loaded.shown, "node-name");
        printed.push(format!("{} <- {}", row.value.as_str().unwrap_or("-"), row.origin));
    };
    root.put("/usr/lib/muster/conf.d/00-token.toml", TOKEN_FILE);
    print(&env, &flags);
    for (path, name) in [
        ("/usr/lib/muster/conf.d/50-a.toml", "vendor-a"),
        ("/usr/lib/muster/conf.d/60-b.toml", "vendor-b"),
        ("/etc/muster/muster.toml", "main"),
        ("/etc/muster/conf.d/10-c.toml", "admin-c"),
        ("/etc/muster/conf.d/20-d.toml", "admin-d"),
        ("/run/muster/conf.d/05-e.toml", "runtime"),
    ] {
        root.put(path, &format!("# a comment\nnode-name = \"{name}\"\n"));
        print(&env, &flags);
    }
    env.push(("MUSTER_NODE_NAME", "environment"));
    print(&env, &flags);
    flags.node_name = Some("flag".into());
    print(&env, &flags);
    assert_eq!(
        printed,
        [
            "- <- default",
            "vendor-a <- /usr/lib/muster/conf.d/50-a.toml:2",
            "vendor-b <- /usr/lib/muster/conf.d/60-b.toml:2",
            "main <- /etc/muster/muster.toml:2",
            "admin-c <- /etc/muster/conf.d/10-c.toml:2",
            "admin-d <- /etc/muster/conf.d/20-d.toml:2",
            "runtime <- /run/muster/conf.d/05-e.toml:2",
            "environment <- environment MUSTER_NODE_NAME",
            "flag <- flag --node-name",
        ]
    );
}

#[test]
fn a_file_of_the_same_name_replaces_the_earlier_one_and_a_link_to_nothing_removes_it() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    root.put("/usr/lib/muster/conf.d/50-site.toml", "node-name = \"vendor\"\ninterface = \"eth0\"");
    root.put("/etc/muster/conf.d/50-site.toml", "node-name = \"admin\"");
    let settings = root.loaded().settings;
    assert_eq!((settings.node_name.as_deref(), settings.interface), (Some("admin"), None));

    fs::create_directory(&root.path("/run/muster/conf.d"), 0o755).unwrap();
    std::os::unix::fs::symlink("/dev/null", root.path("/run/muster/conf.d/50-site.toml")).unwrap();
    let settings = root.loaded().settings;
    assert_eq!((settings.node_name, settings.interface), (None, None));
}

#[test]
fn only_finished_toml_files_are_drop_ins() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    for name in [".hidden.toml", "50-a.toml~", "50-a.toml.rpmnew", "README"] {
        root.put(&format!("/etc/muster/conf.d/{name}"), "this is not toml");
    }
    root.loaded();
}

#[test]
fn one_directory_alone_is_read_when_it_is_named() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", "node-name = \"ignored\"");
    root.put("/srv/lab/muster.toml", &format!("{TOKEN_FILE}node-name = \"named\""));
    root.put("/srv/lab/conf.d/1.toml", "interface = \"eth7\"");
    let flags = Flags { config_dir: Some("/srv/lab".into()), ..Flags::default() };
    for loaded in [root.load(&[], &flags), root.load(&[("MUSTER_CONFIG_DIR", "/srv/lab")], &Flags::default())]
    {
        let settings = loaded.unwrap_or_else(|errors| panic!("{errors}")).settings;
        assert_eq!(settings.node_name.as_deref(), Some("named"));
        assert_eq!(settings.interface.as_deref(), Some("eth7"));
    }
}

#[test]
fn the_first_problem_of_each_file_and_all_files_are_told() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", "sevrers = 3\nrole = 1");
    root.put("/etc/muster/conf.d/1.toml", "servers =");
    root.put("/etc/muster/conf.d/2.toml", "node-name = \"fine\"");
    fs::create_directory(&root.path("/run/muster/conf.d/3.toml"), 0o755).unwrap();
    let errors = root.load(&[("MUSTER_SERVERS", "three")], &Flags::default()).expect_err("a refusal");
    let said = lines(&errors);
    let starts = [
        "/etc/muster/muster.toml:1: unknown key `sevrers`; did you mean `servers`?",
        "/etc/muster/conf.d/1.toml:1: not TOML, or half-written: ",
        "cannot read the configuration /run/muster/conf.d/3.toml: Is a directory",
        "environment MUSTER_SERVERS: `MUSTER_SERVERS` must be a whole number, zero or more, found other characters",
    ];
    assert_eq!(said.len(), starts.len(), "{said:?}");
    for (line, start) in said.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
    let why = errors.why();
    assert_eq!(why.rule, "configuration-refused");
    assert!(said.iter().all(|line| why.detail.contains(line)) && !why.detail.contains('\n'));
    assert_eq!(row(&errors.shown, "node-name").value, "fine");
}

#[test]
fn a_directory_that_cannot_be_read_is_not_taken_for_empty() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    root.put("/etc/muster/conf.d", "a file where the directory belongs");
    assert_eq!(root.refused().len(), 1);
    assert!(root.refused()[0].starts_with("cannot read the configuration /etc/muster/conf.d: "));
}

#[test]
fn the_environment_sets_every_key_but_tables_and_unknown_variables_are_refused() {
    let root = Root::with_token();
    let env = [
        ("MUSTER_TOKEN_FILE", "/etc/muster/token"),
        ("MUSTER_SERVERS", "5"),
        ("MUSTER_SEEDS", "10.77.0.1, host2:9000,"),
        ("MUSTER_K3S_VERSION", "v1.32.0+k3s1"),
        ("MUSTER_LOG", "debug"),
        ("PATH", "/bin"),
    ];
    let settings = root.load(&env, &Flags::default()).unwrap_or_else(|errors| panic!("{errors}")).settings;
    assert_eq!((settings.servers, settings.k3s.version.as_str()), (5, "v1.32.0+k3s1"));
    assert_eq!(
        settings.seeds,
        [Seed::Address("10.77.0.1:7846".parse().unwrap()), Seed::Name("host2".into(), 9000)]
    );
    for (name, wanted) in [
        ("MUSTER_SEVRERS", "unknown key `MUSTER_SEVRERS`; did you mean `MUSTER_SERVERS`?"),
        ("MUSTER_K3S_VERSOIN", "unknown key `MUSTER_K3S_VERSOIN`; did you mean `MUSTER_K3S_VERSION`?"),
        ("MUSTER_TOKN", "unknown key `MUSTER_TOKN`; did you mean `MUSTER_TOKEN`?"),
        ("MUSTER_K3S_TOKEN", "a secret does not belong there: `MUSTER_K3S_TOKEN`; put it in a file"),
        ("MUSTER_K3S_SERVER_CONFIG", "`MUSTER_K3S_SERVER_CONFIG` must be a table in a file, found an env"),
        ("MUSTER_NO_SUCH_THING_AT_ALL", "unknown key `MUSTER_NO_SUCH_THING_AT_ALL`; known are cluster, "),
    ] {
        let errors = root.load(&[(name, TOKEN)], &Flags::default()).expect_err("a refusal");
        let said = lines(&errors).remove(0);
        assert!(said.starts_with(&format!("environment {name}: {wanted}")), "{said}");
        assert!(!format!("{errors:?}").contains(TOKEN));
    }
}

#[test]
fn the_token_comes_from_the_first_source_that_is_given() {
    let root = Root::new();
    let other = |name: &str| format!("token-from-the-{name}");
    let sourced = |env: &[(&str, &str)], text: &str| {
        root.put("/etc/muster/muster.toml", text);
        let loaded = root.load(env, &Flags::default()).unwrap_or_else(|errors| panic!("{errors}"));
        let shown = row(&loaded.shown, "token").clone();
        assert_eq!((shown.value, shown.origin), ("***".into(), loaded.token_source.to_string()));
        (loaded.settings.token.expose().to_owned(), loaded.token_source)
    };
    root.put("/var/lib/muster/token", &other("state"));
    let kept = TokenSource::Kept("/var/lib/muster/token".into());
    assert_eq!(sourced(&[], ""), (other("state"), kept.clone()));

    let variable = other("environment");
    let env = [("MUSTER_TOKEN", variable.as_str()), ("CREDENTIALS_DIRECTORY", "/run/credentials/muster")];
    assert_eq!(sourced(&env, ""), (other("environment"), TokenSource::Environment));

    // An empty credential is how a unit says that there may be none.
    root.put("/run/credentials/muster/muster.token", "");
    assert_eq!(sourced(&env, ""), (other("environment"), TokenSource::Environment));
    assert_eq!(sourced(&env[1..], ""), (other("state"), kept));

    root.put("/run/credentials/muster/muster.token", &other("credential"));
    assert_eq!(sourced(&env, ""), (other("credential"), TokenSource::Credential));

    root.put("/etc/muster/token", &other("file"));
    let file = TokenSource::File("/etc/muster/token".into());
    assert_eq!(sourced(&env, TOKEN_FILE), (other("file"), file));
}

#[test]
fn a_command_finds_the_credential_that_the_unit_would_be_given() {
    let root = Root::new();
    root.put("/etc/muster/muster.toml", "");
    let token = |env: Env| {
        let loaded = load(root.0.path(), &env.with_credentials_of_the_unit(root.0.path()), &Flags::default());
        loaded.ok().map(|loaded| loaded.settings.token.expose().to_owned())
    };
    let other = |of: &str| format!("{of}-0123456789abcdef");
    assert_eq!(token(Env::default()), None);
    root.put("/etc/credstore/muster.token", &other("store"));
    assert_eq!(token(Env::default()), Some(other("store")));
    root.put("/run/credentials/@system/muster.token", &other("system"));
    assert_eq!(token(Env::default()), Some(other("system")));
    root.put("/run/credentials/muster/muster.token", &other("unit"));
    let own = Env::of(&[("CREDENTIALS_DIRECTORY", "/run/credentials/muster")]);
    assert_eq!(token(own), Some(other("unit")));
}

#[test]
fn a_token_that_is_given_and_wrong_is_refused_and_never_passed_over() {
    let root = Root::new();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    let env = [("MUSTER_TOKEN", "a-good-token-in-the-environment")];
    let said = |root: &Root| lines(&root.load(&env, &Flags::default()).expect_err("a refusal"));
    assert_eq!(
        said(&root),
        ["token-file = /etc/muster/token (/etc/muster/muster.toml:1): there is no such file"]
    );
    let of_file = "the token in /etc/muster/token (token-file)";
    for (text, reason) in [
        ("", "is refused: the token is empty"),
        ("short", "is refused: the token has 5 characters, at least 16"),
        ("K10-and-more-than-sixteen", "is refused: the token starts with K10"),
        ("abcdef.0123456789abcdef", "is refused: the token has the shape of a bootstrap token"),
    ] {
        root.put("/etc/muster/token", text);
        let said = said(&root);
        assert!(said.len() == 1 && said[0].starts_with(&format!("{of_file} {reason}")), "{said:?}");
    }
    root.put("/etc/muster/token", TOKEN);
    for mode in [0o604, 0o644, 0o602] {
        root.chmod("/etc/muster/token", mode);
        assert_eq!(
            said(&root),
            [format!(
                "{of_file} has mode {mode:04o}, so that every user can read or replace it; `chmod 600 /etc/muster/token` it"
            )]
        );
    }
    root.chmod("/etc/muster/token", 0o640);
    root.loaded();
    fs::remove(&root.path("/etc/muster/token")).unwrap();
    fs::create_directory(&root.path("/etc/muster/token"), 0o700).unwrap();
    assert_eq!(said(&root), [format!("cannot read {of_file}: it is not a regular file")]);
}

#[test]
fn a_pipe_in_the_place_of_a_token_does_not_hold_the_agent() {
    let root = Root::new();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    nix::unistd::mkfifo(&root.path("/etc/muster/token"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert_eq!(
        root.refused(),
        ["cannot read the token in /etc/muster/token (token-file): it is not a regular file"]
    );
}

#[test]
fn the_tokens_of_an_existing_cluster_and_of_last_year_are_read_too() {
    let root = Root::with_token();
    let text = "previous-token-file = \"/etc/muster/previous\"\n[k3s]\ntoken-file = \"/etc/muster/k3s\"\nagent-token-file = \"/etc/muster/agent\"";
    root.put("/etc/muster/muster.toml", &format!("{TOKEN_FILE}{text}"));
    root.put("/etc/muster/previous", "the-token-of-last-year\n");
    root.put("/etc/muster/k3s", &format!("K10{}::server:old-password\n", "ab".repeat(32)));
    root.put("/etc/muster/agent", "agent-password\n");
    let settings = root.loaded().settings;
    assert_eq!(settings.previous_token.unwrap().expose(), "the-token-of-last-year");
    assert_eq!(settings.k3s.token.unwrap().expose(), "old-password");
    assert_eq!(settings.k3s.agent_token.unwrap().expose(), "agent-password");

    fs::remove(&root.path("/etc/muster/previous")).unwrap();
    root.put("/etc/muster/k3s", "K10broken");
    let said = root.refused();
    assert!(said[0].starts_with(
        "previous-token-file = /etc/muster/previous (/etc/muster/muster.toml:2): there is no such"
    ));
    assert!(
        said[1].starts_with(
            "the token in /etc/muster/k3s (k3s.token-file) is refused: the token starts with K10"
        )
    );
}

#[test]
fn a_lone_machine_needs_nothing_and_keeps_the_token_that_it_makes() {
    let root = Root::new();
    let flags = Flags { servers: Some(1), ..Flags::default() };
    let errors = root.load(&[], &flags).expect_err("no token yet");
    assert_eq!(errors.lone_token(), Some(&PathBuf::from("/var/lib/muster/token")));
    assert!(!root.path("/var/lib/muster").exists(), "loading changes nothing");

    let make = |bytes: [u8; 32]| load_making_token(root.0.path(), &Env::default(), &flags, || Ok(bytes));
    let first = make([7; 32]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(first.settings.token.expose(), "07".repeat(32));
    assert_eq!((first.settings.servers, first.settings.founders), (1, 1));
    assert_eq!(first.token_source, TokenSource::Kept("/var/lib/muster/token".into()));
    let mode = |path| std::fs::metadata(root.path(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("/var/lib/muster/token"), mode("/var/lib/muster")), (0o600, 0o700));

    let second = make([8; 32]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(second.settings.token, first.settings.token);
}

#[test]
fn of_two_processes_that_make_a_token_the_first_one_holds() {
    let root = Root::new();
    let path = root.path("/var/lib/muster/token");
    keep_token(&path, &Secret::new("first-token-of-this-machine".into())).unwrap();
    keep_token(&path, &Secret::new("second-token-of-this-machine".into())).unwrap();
    assert_eq!(fs::read_text(&path).unwrap().as_deref(), Some("first-token-of-this-machine\n"));
    assert_eq!(fs::known_names(path.parent().unwrap()), crate::core::Known::Yes(vec!["token".into()]));
}

#[test]
fn nobody_else_makes_a_token() {
    let root = Root::new();
    let make = |flags: &Flags| {
        load_making_token(root.0.path(), &Env::default(), flags, || panic!("drawn")).expect_err("a refusal")
    };
    let errors = make(&Flags::default());
    assert_eq!(errors.lone_token(), None);
    assert_eq!(
        lines(&errors),
        [
            "no cluster token: looked for the key `token-file`, the systemd credential `muster.token`, the environment variable \
             MUSTER_TOKEN, and /var/lib/muster/token; `muster token new` makes one"
        ]
    );
    assert_eq!(row(&errors.shown, "token").origin, "none");
    // Something else is wrong beside it: mended first.
    make(&Flags { servers: Some(1), node_ip: Some("x".into()), ..Flags::default() });
    make(&Flags { servers: Some(1), seeds: Some(vec!["host2".into()]), ..Flags::default() });
    assert!(!root.path("/var").exists());
}

#[test]
fn a_token_that_cannot_be_kept_leaves_nothing_behind() {
    let root = Root::new();
    root.put("/var/lib/muster", "a file where the directory belongs");
    let flags = Flags { servers: Some(1), state_dir: Some("/srv/m".into()), ..Flags::default() };
    let failed =
        load_making_token(root.0.path(), &Env::default(), &flags, || Err(io::Error::other("no dice")));
    assert_eq!(lines(&failed.expect_err("no dice")), ["cannot keep a new token as /srv/m/token: no dice"]);
    assert!(!root.path("/srv").exists());
}

#[test]
fn whatever_changes_the_answer_changes_the_fingerprint() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", TOKEN_FILE);
    fs::create_directory(&root.path("/etc/muster/conf.d"), 0o755).unwrap();
    let mut last = root.loaded().fingerprint;
    assert!(last.holds(), "nothing changed");
    root.put("/etc/muster/conf.d/.half.toml", "not yet");
    assert!(last.holds(), "a hidden file is no source");
    let changes: [(&str, &dyn Fn()); 8] = [
        ("a new drop-in", &|| root.put("/etc/muster/conf.d/1.toml", "servers =")),
        ("a mended drop-in", &|| root.put("/etc/muster/conf.d/1.toml", "servers = 3")),
        ("a removed drop-in", &|| fs::remove(&root.path("/etc/muster/conf.d/1.toml")).unwrap()),
        ("a new directory", &|| root.put("/run/muster/conf.d/1.toml", "servers = 3")),
        ("a readable token", &|| root.chmod("/etc/muster/token", 0o644)),
        ("a safe token", &|| root.chmod("/etc/muster/token", 0o600)),
        ("another token", &|| root.put("/etc/muster/token", "another-token-of-fair-length")),
        ("no token", &|| fs::remove(&root.path("/etc/muster/token")).unwrap()),
    ];
    for (what, change) in changes {
        change();
        assert!(!last.holds(), "{what}");
        last = match root.load(&[], &Flags::default()) {
            Ok(loaded) => loaded.fingerprint,
            Err(errors) => errors.fingerprint,
        };
        assert!(last.holds(), "{what}, and nothing since");
    }
}

#[test]
fn everything_that_can_be_set_is_shown_with_its_origin() {
    let root = Root::with_token();
    let text = include_str!("../../testdata/config/full.toml");
    root.put("/etc/muster/muster.toml", text);
    root.put("/etc/muster/previous-token", "the-token-of-last-year");
    root.put("/etc/muster/k3s-token", "canary-k3s-password");
    root.put("/etc/muster/k3s-agent-token", "canary-agent-password");
    let flags = Flags { servers: Some(7), ..Flags::default() };
    let loaded =
        root.load(&[("MUSTER_NODE_NAME", "node2")], &flags).unwrap_or_else(|errors| panic!("{errors}"));
    let shown = table(&loaded.shown);
    let golden = include_str!("../../testdata/config/show.txt");
    assert_eq!(shown, golden, "agent/testdata/config/show.txt differs; what is shown now:\n{shown}");
    assert_eq!(loaded.shown.len(), Key::ALL.len() + 1);
    let said = format!("{shown}{}{loaded:?}", serde_json::to_string(&loaded.shown).unwrap());
    assert!(!said.contains("canary"), "{said}");
    assert!(!said.contains("the-token-of-last-year"));
    assert!(!loaded.shown.iter().any(|row| row.origin == "default"), "full.toml sets every key");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Wherever a token is put, rightly or wrongly, nothing that is said of the outcome shows it.
    #[test]
    fn nothing_ever_shows_a_token(token in "[A-Za-z0-9!$%&*+,;<>@^_|~-]{16,40}", place in 0_usize..16) {
        let root = Root::with_token();
        root.put("/etc/muster/secret", &token);
        let toml = [
            "token-file = \"/etc/muster/secret\"".to_owned(),
            "token-file = \"/etc/muster/token\"\nprevious-token-file = \"/etc/muster/secret\"".into(),
            "token-file = \"/etc/muster/token\"\nk3s.token-file = \"/etc/muster/secret\"".into(),
            "token-file = \"/etc/muster/token\"\nk3s.agent-token-file = \"/etc/muster/secret\"".into(),
            format!("token = \"{token}\""),
            format!("tokens = \"{token}\""),
            format!("token = {token}"),
            format!("token = '{token}"),
            format!("token-file = \"{token}\""),
            format!("k3s.token-file = \"{token}\""),
            format!("k3s.token = \"{token}\""),
            format!("k3s.server-config.token = \"{token}\""),
            format!("token-file = \"/etc/muster/token\"\nk3s.server-config.etcd-s3-access-key = \"{token}\""),
            format!("k3s.sources = [\"https://user:{token}@mirror/k3s\"]"),
        ];
        let mut env = Vec::new();
        match toml.get(place) {
            Some(text) => root.put("/etc/muster/muster.toml", text),
            None if place == 14 => env.push(("MUSTER_TOKEN", token.as_str())),
            None => env.push(("MUSTER_TOKENS", token.as_str())),
        }
        let said = match root.load(&env, &Flags::default()) {
            Ok(loaded) => {
                let keys = crate::identity::keys::ClusterKeys::derive(
                    &loaded.settings.cluster,
                    &loaded.settings.token,
                );
                format!("{loaded:?} {} {keys:?}", table(&loaded.shown))
            }
            Err(errors) => format!("{errors:?} {errors} {:?} {}", errors.why(), table(&errors.shown)),
        };
        prop_assert!(!said.contains(&token), "{}", said);
        let shown_env = format!("{:?}", Env::of(&env));
        prop_assert!(!shown_env.contains(&token));
    }
}

#[test]
fn the_kernels_command_line_lies_over_files_and_beneath_the_environment() {
    let root = Root::with_token();
    root.put("/etc/muster/muster.toml", "servers = 1\ntoken-file = \"/etc/muster/token\"\n");
    root.put("/run/muster/conf.d/10.toml", "servers = 3\nseeds = [\"10.0.0.9\"]\n");
    root.put(
        "/proc/cmdline",
        "quiet muster.servers=5 muster.seeds=10.0.0.1,10.0.0.2 muster.cluster=booted\n",
    );
    let loaded = root
        .load(&[("MUSTER_CLUSTER", "env")], &Flags::default())
        .unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((loaded.settings.servers, loaded.settings.seeds.len()), (5, 2));
    assert_eq!(loaded.settings.cluster, "env");
    assert_eq!(row(&loaded.shown, "servers").origin, "kernel parameter muster.servers");
    // In a container it is the command line of the machine outside.
    root.put("/run/systemd/container", "systemd-nspawn\n");
    assert_eq!(root.loaded().settings.servers, 3);
}

#[test]
fn a_secret_or_a_slip_on_the_kernels_command_line_is_refused() {
    let root = Root::with_token();
    root.put("/proc/cmdline", &format!("muster.token={TOKEN} muster.sevrers=3\n"));
    let said = root.refused().join("\n");
    assert!(said.contains("kernel parameter muster.token: a secret does not belong there"), "{said}");
    assert!(said.contains("did you mean `servers`?") && !said.contains(TOKEN), "{said}");
    // What the command line leads to is a file like any other once it is there.
    root.put("/proc/cmdline", "muster.token-url=http://10.0.0.1/token muster.seeds=10.0.0.1\n");
    assert!(
        root.refused()[0]
            .contains("token-file = /run/muster/kernel-token (kernel parameter muster.token-url)")
    );
    root.put("/run/muster/kernel-token", TOKEN);
    assert_eq!(root.loaded().token_source, TokenSource::File("/run/muster/kernel-token".into()));
}
