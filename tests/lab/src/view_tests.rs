use super::*;

fn serving(name: &str, role: &str) -> Row {
    Row {
        name: name.into(),
        address: "10.77.0.1".into(),
        role: role.into(),
        phase: "serving".into(),
        voter: (role == "server").then_some(true),
        ready: Some(true),
        since: 4.25,
        certificate: Some(Certificate { cluster_id: "c1".into(), era: 1, ..Certificate::default() }),
        ..Row::default()
    }
}

#[test]
fn a_table_is_as_wide_as_its_widest_cell() {
    let mut waiting = serving("node2", "undecided");
    waiting.phase = "electing".into();
    (waiting.voter, waiting.ready) = (None, None);
    waiting.why =
        vec![Why { rule: "waiting-for-founders".into(), detail: "2 of 3".into(), next: String::new() }];
    let golden = "\
NODE   ADDRESS    ROLE       PHASE     VOTER  READY  SINCE  WHY
node1  10.77.0.1  server     serving   yes    yes    4.2s
node2  10.77.0.1  undecided  electing  -      -      4.2s   waiting-for-founders: 2 of 3
node3  10.77.0.1  agent      serving   -      yes    4.2s
";
    assert_eq!(to_table(&[serving("node1", "server"), waiting, serving("node3", "agent")]), golden);
}

#[test]
fn json_has_the_keys_that_were_promised() {
    let value = to_json(&[serving("node1", "server")]);
    assert_eq!(
        value["nodes"][0],
        json!({"name": "node1", "role": "server", "phase": "serving",
        "voter": true, "ready": true, "why": []})
    );
    assert_eq!(value["certificate"]["cluster_id"], "c1");
    assert_eq!(to_json(&[])["certificate"], Value::Null);
}

#[test]
fn a_cluster_is_formed_only_when_nothing_is_missing() {
    let good =
        [serving("a", "server"), serving("b", "server"), serving("c", "server"), serving("d", "agent")];
    assert_eq!(missing(&good, 3), None);
    assert_eq!(missing(&good[..1], 3), None, "one host can only be one server");
    let broken = |change: fn(&mut Row)| {
        let mut rows = good.clone();
        change(&mut rows[1]);
        missing(&rows, 3).unwrap()
    };
    assert_eq!(broken(|row| row.phase = "joining".into()), "b is `joining`");
    assert_eq!(broken(|row| row.ready = None), "b is not Ready");
    assert_eq!(broken(|row| row.voter = Some(false)), "b is a server and no voter");
    assert_eq!(broken(|row| row.certificate = None), "b holds no certificate");
    assert_eq!(broken(|row| row.role = "agent".into()), "2 servers, 3 wanted");
    let other = Certificate { cluster_id: "c2".into(), ..Certificate::default() };
    let mut two = good.clone();
    two[1].certificate = Some(other);
    assert_eq!(missing(&two, 3).unwrap(), "the nodes hold different certificates");
}

#[test]
fn time_is_written_for_people() {
    let cases = [(0.0, "0.0s"), (59.94, "59.9s"), (190.2, "3m10s"), (7500.0, "2h05m")];
    for (value, text) in cases {
        assert_eq!(seconds(value), text);
    }
}
