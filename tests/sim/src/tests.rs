use crate::control::Control;
use crate::history::{Script, run};
use crate::run::run_all;

#[test]
fn one_seed_gives_the_same_bytes_twice() {
    for seed in [1, 2, 3, 41, 977] {
        let story = || {
            let history = run(Script { tell: true, ..Script::of(seed) });
            let coverage = history.coverage.json().to_string();
            (history.story.join("\n"), history.effects, coverage)
        };
        let first = story();
        assert!(first.0.len() > 1_000, "the story of {seed} is empty");
        assert_eq!(first, story(), "seed {seed}");
    }
}

#[test]
fn the_sum_does_not_depend_on_the_threads() {
    let sum = |threads| {
        let totals = run_all(200, threads, &|place| Script::of(place as u64));
        (totals.formed, totals.formed_ms, totals.violations, totals.stuck, totals.coverage.json().to_string())
    };
    assert_eq!(sum(1), sum(3));
}

#[test]
fn every_agent_that_is_broken_on_purpose_is_caught() {
    for control in Control::ALL.iter().chain(Control::HEALING) {
        let heals = control.heals();
        let caught = (0..20).any(|part| {
            let script =
                |place: usize| Script { control: *control, heals, ..Script::of(100 * part + place as u64) };
            !run_all(100, 2, &script).violations.is_empty()
        });
        assert!(caught, "{control:?} was not caught");
    }
}

#[test]
fn some_histories_keep_the_promises_and_most_form_a_cluster() {
    let totals = run_all(200, 2, &|place| Script::of(1_000_000 + place as u64));
    assert!(totals.is_clean(), "{:?} {:?}", totals.violations, totals.stuck);
    assert!(totals.formed > 160, "only {} formed", totals.formed);
}

#[test]
fn histories_of_healing_keep_the_promises_and_one_seed_gives_the_same_bytes() {
    let script = |place: usize| Script { heals: true, ..Script::of(1 + place as u64) };
    let totals = run_all(60, 2, &script);
    assert!(totals.is_clean(), "{:?} {:?}", totals.violations, totals.stuck);
    assert!(totals.coverage.remedies().contains_key("remove") && totals.filled(50).is_some());
    let story = || run(Script { tell: true, ..script(7) }).story.join("\n");
    assert_eq!(story(), story());
}
