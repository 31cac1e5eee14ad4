//! The generated pages of the documentation are current.

#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn the_page_of_operators_is_generated_from_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    let page = std::fs::read_to_string(path).unwrap();
    assert!(
        page == gradalign::import::markdown(),
        "run `cargo run -- ops --format markdown > docs/operators.md`"
    );
}

#[test]
fn every_score_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scores.md");
    let page = std::fs::read_to_string(path).unwrap();
    for metric in gradalign::metric::all() {
        let name = metric.info().name;
        let listed = page.lines().any(|l| l.starts_with("| ") && l.contains(&format!("`{name}`")));
        assert!(listed, "{name} is missing in the table of docs/scores.md");
    }
}
