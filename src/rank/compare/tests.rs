use super::*;
use crate::report::tests::run;
use crate::score::{Failure, ScoreSettings, ScoreValue};
use crate::source::ModelRef;

/// A model with a value of `score`, or one that failed.
fn model(name: &str, values: &[(&'static str, f64)]) -> ModelResult {
    let mut model = ModelResult::new(&ModelRef::new(name));
    model.key = Some(format!("key of {name}"));
    model.sha256 = Some("same".into());
    for &(score, value) in values {
        model.add_score(&ScoreValue::new(score, value));
    }
    if values.is_empty() {
        model.fail(Failure { kind: "memory".into(), message: "too large".into() });
    }
    model
}

fn records(models: Vec<ModelResult>) -> Vec<Record> {
    models.into_iter().map(|result| Record { run: run(), result }).collect()
}

fn values(values: &[(&str, f64)]) -> Vec<Record> {
    records(values.iter().map(|&(name, value)| model(name, &[("x", value)])).collect())
}

fn compared(a: Vec<Record>, b: Vec<Record>) -> Comparison {
    compare(a, b, &[]).unwrap()
}

#[test]
fn a_result_does_not_differ_from_itself() {
    let all = || values(&[("a", 1.0), ("b", f64::NAN), ("c", 3.0)]);
    let found = compared(all(), all());
    let x = found.scores.get("x").unwrap();
    assert_eq!((found.models, x.models, x.changed, x.moved), (3, 3, 0, 0));
    assert_eq!((x.kendall_tau, x.spearman, x.same_top1), (Some(1.0), Some(1.0), true));
    assert!(found.differences.is_empty() && x.moves.is_empty() && x.top1_a == ["c"]);
}

#[test]
fn moves_are_those_of_ranks_then_of_values() {
    let a = values(&[("a", 4.0), ("b", 3.0), ("c", 2.0), ("d", -1.0), ("only", 9.0)]);
    let b = values(&[("other", 0.0), ("d", -1.5), ("c", 5.0), ("b", 3.0), ("a", 4.0)]);
    let found = compared(a, b);
    assert_eq!((found.only_a, found.only_b), (vec!["only".into()], vec!["other".into()]));
    let x = found.scores.get("x").unwrap();
    let moves: Vec<_> =
        x.moves.iter().map(|m| (m.model.as_str(), m.rank_a, m.rank_b, m.relative)).collect();
    assert_eq!(
        moves,
        [
            ("c", 3, 1, Some(1.5)),
            ("a", 1, 2, Some(0.0)),
            ("b", 2, 3, Some(0.0)),
            ("d", 4, 4, Some(-0.5))
        ]
    );
    assert_eq!((x.changed, x.moved, x.same_top1), (2, 3, false));
    // Two of the six pairs turned.
    assert!((x.kendall_tau.unwrap() - 2.0 / 6.0).abs() < 1e-12);
}

#[test]
fn missing_values_and_failures_are_told() {
    let a = records(vec![
        model("a", &[("x", 0.0)]),
        model("b", &[("x", f64::NAN)]),
        model("c", &[]),
        model("d", &[]),
        model("e", &[("x", 1.0), ("y", 1.0)]),
    ]);
    let b = records(vec![
        model("a", &[("x", 2.0)]),
        model("b", &[("x", 1.0), ("z", 1.0)]),
        model("c", &[("x", 1.0)]),
        model("d", &[]),
        model("e", &[]),
    ]);
    let found = compared(a, b);
    let names = |failed: &[Failed]| failed.iter().map(|f| f.model.clone()).collect::<Vec<_>>();
    assert_eq!(
        (names(&found.failed_a), names(&found.failed_b)),
        (vec!["c".into()], vec!["e".into()])
    );
    assert_eq!((found.failed_both, found.failed_a[0].kind.as_str()), (1, "memory"));
    assert_eq!((found.scores_only_a, found.scores_only_b), (vec!["y".into()], vec!["z".into()]));
    let x = found.scores.get("x").unwrap();
    assert_eq!(x.models, 2);
    assert_eq!((x.moves[0].model.as_str(), x.moves[0].value_a), ("b", None));
    assert!(x.moves.iter().all(|m| m.relative.is_none()));
}

#[test]
fn models_are_matched_by_name_then_by_key_and_never_by_guess() {
    let mut renamed = model("new", &[("x", 1.0)]);
    renamed.key = Some("key of old".into());
    renamed.sha256 = Some("other".into());
    let mut same = model("a", &[("x", 1.0)]);
    same.sha256 = Some("other".into());
    let a = values(&[("a", 1.0), ("old", 2.0), ("twice", 1.0), ("twice", 2.0)]);
    let mut b = records(vec![renamed, same]);
    b.extend(values(&[("twice", 2.0)]));
    let found = compared(a, b);
    assert_eq!((found.models, found.ambiguous), (2, vec!["twice".to_owned()]));
    assert!(found.only_a.is_empty() && found.only_b.is_empty());
    assert_eq!(found.changed_files, ["a", "old"]);
    assert!(found.scores.get("x").unwrap().moves.iter().any(|m| m.model == "old"));

    // Two models of one key, under names that the other does not have.
    let mut b = values(&[("p", 1.0), ("q", 1.0)]);
    b.iter_mut().for_each(|record| record.result.key = Some("key of a".into()));
    let found = compared(values(&[("a", 1.0)]), b);
    assert_eq!((found.models, found.ambiguous.join(" ")), (0, "a p q".into()));
}

#[test]
fn what_differs_in_how_results_were_made_is_named() {
    let mut b = values(&[("a", 1.0)]);
    let run = &mut b[0].run;
    run.settings = ScoreSettings::new().seed(7);
    run.settings_digest = run.settings.digest();
    run.engine.name = "tract".into();
    let found = compared(values(&[("a", 1.0)]), b).differences;
    let fields: Vec<_> = found.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["engine.name", "settings.mean", "settings.seed", "settings.shape.x"]);
    assert_eq!((&found[2].a, &found[2].b), (&0.into(), &7.into()));
    assert_eq!(found[3].b, Value::Null);
}

#[test]
fn sums_are_of_ranks_among_the_models_of_both() {
    let sum = |name: &str, p: f64, q: f64| {
        let mut model = model(name, &[("z", 0.0)]);
        model.add_score(&ScoreValue {
            parts: vec![("p", p), ("q", q)],
            ..ScoreValue::new("s", p + q)
        });
        model
    };
    let a = records(vec![sum("a", 1.0, 1.0), sum("b", 2.0, 2.0), sum("gone", 1.5, 9.0)]);
    let b = records(vec![sum("a", -9.0, 1.0), sum("b", 5.0, 8.0)]);
    let found = compared(a, b);
    let s = found.scores.get("s").unwrap();
    assert_eq!((s.changed, s.kendall_tau), (0, Some(1.0)));
}

#[test]
fn scores_can_be_chosen_and_records_of_one_result_are_alike() {
    let all = || records(vec![model("a", &[("x", 1.0), ("y", 2.0)])]);
    let found = compare(all(), all(), &["y".into()]).unwrap();
    assert_eq!(found.scores.names().collect::<Vec<_>>(), ["y"]);
    let error = compare(all(), all(), &["w".into()]).unwrap_err().to_string();
    assert!(error.contains("'w'") && error.contains("choose from x, y"), "{error}");
    let error = compare(all(), all(), &[AGGREGATE.into()]).unwrap_err().to_string();
    assert!(error.contains("not kept"), "{error}");
    let mut mixed = all();
    mixed.extend(values(&[("b", 1.0)]));
    mixed[1].run.data.source = "other".into();
    assert!(compare(mixed, all(), &[]).is_err());
}
