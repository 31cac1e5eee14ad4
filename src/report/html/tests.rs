//! The page, of rankings made by hand.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::text::base64;
use super::*;
use crate::report::read;
use crate::report::tests::{ranking, run};
use crate::score::{Failure, ModelResult, ScoreValue};
use crate::source::ModelRef;

const EVIL: &str = "</script><img src=x onerror=\"alert('1')\">&\u{2028}\u{202e}{{script}}.onnx";

fn page(ranking: &Ranking) -> String {
    Page::new(ranking).html().unwrap()
}

/// The text of the `script` element with this id.
fn embedded<'a>(page: &'a str, id: &str) -> &'a str {
    let start = format!("<script type=\"application/json\" id=\"{id}\">");
    let (_, rest) = page.split_once(&start).unwrap();
    rest.split_once("</script>").unwrap().0
}

fn truth(text: &str) -> Truth {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Truth::read(Path::new(file.path())).unwrap()
}

#[test]
fn a_page_holds_all_and_loads_nothing() {
    let mut ranking = ranking();
    let truth = truth("model,accuracy\nsmall,70\nlarge,90\n");
    ranking.correlate(&truth);
    let whole = Page::new(&ranking).truth(&truth).command("gradalign rank 'a b'").asked(5);
    let text = whole.html().unwrap();
    assert_eq!(text, whole.html().unwrap(), "the same page every time");
    for part in [
        "Scores of 3 models",
        "Interrupted: 3 of 5 models were finished.",
        "Data: probe.npz, 128 samples · Engine: onnxruntime 1.32.0 on cpu",
        "title=\"10988.9\">10988.9 ±0.25 <small class=\"first\">#1</small>",
        "title=\"no value: see the warnings\">–",
        "<td>1,000</td>",
        "<td>70</td>",
        "Kendall&#39;s tau-b",
        "the best reaches 90, their mean is 80",
        "<span class=\"kind\">invalid-model</span></div><div>not ONNX",
        "gradalign-2 is -inf: reported as null",
        "<pre>gradalign rank &#39;a b&#39;</pre>",
        "<li class=\"set\">mean: [0.485]</li>",
        "<li>seed: 0</li>",
        &ranking.run.settings_digest,
        "these bars follow the rank",
    ] {
        assert!(text.contains(part), "no '{part}' in the page");
    }
    assert_eq!(embedded(&text, "accuracies"), "[70.0,90.0,null]");
    assert!(!text.contains("{{"), "a part is left open");

    // Nothing but the name space of SVG looks like an address.
    let own = text.replace("\"http://www.w3.org/2000/svg\"", "").replace("http-equiv", "");
    for outside in ["http", "src=", "url(", "@import", "fetch(", "XMLHttp", "//w", "onclick"] {
        assert!(!own.contains(outside), "the page has '{outside}'");
    }
    assert!(text.contains("content=\"default-src 'none'; "));
}

#[test]
fn the_records_of_a_page_are_those_of_the_ranking() {
    let mut ranking = ranking();
    ranking.models[0].path = EVIL.into();
    let text = page(&ranking);
    let read = read(embedded(&text, "ranking"), "page").unwrap();
    assert_eq!(read, ranking.into_records());
    assert_eq!(embedded(&text, "accuracies"), "null");
}

#[test]
fn names_from_files_stay_text() {
    let mut ranking = ranking();
    ranking.run.data.source = EVIL.into();
    for model in &mut ranking.models {
        (model.model, model.name, model.path) = (EVIL.into(), EVIL.into(), EVIL.into());
        model.warnings.push(EVIL.into());
        (model.output, model.loss) = (Some(EVIL.into()), Some(EVIL.into()));
    }
    ranking.models[2].fail(Failure { kind: EVIL.into(), message: EVIL.into() });
    ranking.run.settings.tensor = Some(EVIL.into());
    let text = Page::new(&ranking).command(EVIL).html().unwrap();
    assert!(!text.contains("<img") && !text.contains("onerror=\""));
    assert_eq!(text.matches("</script>").count(), 3);
    assert_eq!(text.matches("<script").count(), 3);
    assert!(!text.contains('\u{2028}'));
    // In the records it stays as it is, and nobody reads those.
    assert!(!text.split("application/json").next().unwrap().contains('\u{202e}'));
    assert_eq!(text.matches("\"use strict\"").count(), 1, "what is put in is not filled in again");
}

#[test]
fn the_policy_allows_the_script_of_the_page() {
    let text = page(&ranking());
    let (_, rest) = text.split_once("script-src 'sha256-").unwrap();
    let digest = rest.split('\'').next().unwrap();
    let script = text.rsplit_once("<script>").unwrap().1.split_once("</script>").unwrap().0;
    assert_eq!(digest, base64(&Sha256::digest(script)));
}

#[test]
fn values_of_every_size_have_a_cell() {
    let values = [f64::MAX, f64::MIN_POSITIVE, -0.0, 1e-300, f64::NAN, -1e9, f64::INFINITY];
    let row = |(i, value): (usize, &f64)| {
        let mut row = ModelResult::new(&ModelRef::new(format!("{i}.onnx")));
        row.add_score(&ScoreValue::new("zen", *value));
        row.parameters = Some(u64::MAX);
        row
    };
    let models: Vec<ModelResult> = values.iter().enumerate().map(row).collect();
    let text = page(&Ranking::new(run(), models));
    assert!(text.contains("1.79769e308") && text.contains("-1.00000e9"), "{text}");
    assert!(text.contains("18,446,744,073,709,551,615"));
    for cell in text.split("--W:").skip(1) {
        let length: f64 = cell.split('"').next().unwrap().parse().unwrap();
        assert!((0.0..=1.0).contains(&length));
    }
    assert!(!text.contains("NaN\"") && !text.contains("inf\""));
}

#[test]
fn a_ranking_without_scores_is_a_page_too() {
    let mut ranking = ranking();
    ranking.models.drain(..2);
    let text = page(&ranking);
    assert!(text.contains("Failed: 1 model") && text.contains("Scores of 1 model<"));
    ranking.models.clear();
    assert!(page(&ranking).contains("Scores of 0 models"));
}
