//! Experiments on search spaces: a few networks of one, on every engine.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{command, engines, inside, run};

const CELLS: [&str; 5] = [
    "|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
];

const PLAN: &str = r#"
name = "a few networks"
aggregates = ["live-jacob"]
[scoring]
metric = ["gradalign-1", "naswot"]
samples = 6
init = "pytorch"
[statistics]
resamples = 20
[[benchmark]]
name = "few"
space = { name = "nasbench201", image-size = 8 }
truth = { values = "accuracy" }
"#;

/// A folder with a plan and a truth.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let rows = CELLS.iter().zip([93, 88, 85, 90, 10]).map(|(cell, a)| format!("{cell},{a}\n"));
    let truth = "arch,accuracy\n".to_owned() + &rows.collect::<String>();
    std::fs::write(folder.path().join("truth.csv"), truth).unwrap();
    std::fs::write(folder.path().join("plan.toml"), PLAN).unwrap();
    folder
}

/// The arguments of the experiment in `folder` with the results in its folder `out`.
fn arguments(folder: &TempDir, engine: &str, out: &str) -> Vec<String> {
    let at = |name: &str| inside(folder, name).1;
    let (plan, truth, out) = (at("plan.toml"), at("truth.csv"), at(out));
    [
        "experiment",
        &plan,
        "--truth",
        &truth,
        "--data",
        "synthetic",
        "--engine",
        engine,
        "--out",
        &out,
    ]
    .map(String::from)
    .to_vec()
}

fn experiment(arguments: &[String]) -> super::Run {
    run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn read(folder: &TempDir, name: &str) -> String {
    std::fs::read_to_string(folder.path().join(name)).unwrap()
}

#[test]
fn tables_say_how_scores_rank() {
    for engine in engines() {
        let folder = folder();
        let arguments = arguments(&folder, engine, "out");
        let run = experiment(&arguments);
        assert_eq!(run.code, 0, "{}", run.err);
        assert!(run.out.contains("5 networks of nasbench201, against accuracy"), "{}", run.out);
        let json: serde_json::Value =
            serde_json::from_str(&read(&folder, "out/tables.json")).unwrap();
        let found = &json["benchmarks"][0]["truths"][0];
        assert_eq!((&found["networks"], &found["best"]), (&5.into(), &93.0.into()));
        let scores = found["scores"].as_array().unwrap();
        let names: Vec<_> = scores.iter().map(|score| score["score"].as_str().unwrap()).collect();
        let asked = ["gradalign-1", "naswot", "params-live", "jacob-cov", "live-jacob"];
        assert_eq!(names, [&asked[..], &["params", "flops"]].concat());
        let live = &scores[2];
        assert_eq!(live["first"]["value"], 93.0);
        assert!(live["kendall_tau"]["value"].as_f64().unwrap() > 0.5);
        let networks = read(&folder, "out/networks.csv");
        assert!(networks.contains("few,,nasbench201-6,"), "{networks}");
        assert!(networks.contains("559386"), "{networks}");
        assert!(read(&folder, "out/page.html").contains("a few networks"));
        assert!(read(&folder, "out/tables.md").starts_with("# a few networks\n"));
        assert_eq!(read(&folder, "out/tables.csv").lines().count(), 8);
        // Nothing is computed again, and the tables are the same to the last byte.
        let before = ["md", "csv", "json"].map(|kind| read(&folder, &format!("out/tables.{kind}")));
        assert_eq!(experiment(&arguments).code, 0);
        assert_eq!(
            ["md", "csv", "json"].map(|kind| read(&folder, &format!("out/tables.{kind}"))),
            before
        );
    }
}

#[test]
fn what_was_killed_goes_on() {
    let folder = folder();
    let whole = arguments(&folder, "tract", "whole");
    assert_eq!(experiment(&whole).code, 0);
    let killed = arguments(&folder, "tract", "killed");
    let mut child = begun(&killed, &inside(&folder, "killed/results.db").1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("killed/tables.md").exists());
    assert_eq!(experiment(&killed).code, 0);
    for name in ["tables.md", "tables.csv", "networks.csv"] {
        let of = |folder_name: &str| read(&folder, &format!("{folder_name}/{name}"));
        assert_eq!(of("killed"), of("whole"), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn what_was_interrupted_says_where_it_is_kept() {
    let folder = folder();
    let plan = PLAN.replace("[scoring]", "seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n[scoring]");
    std::fs::write(folder.path().join("plan.toml"), plan).unwrap();
    let (_, store) = inside(&folder, "out/results.db");
    let child = begun(&arguments(&folder, "tract", "out"), &store);
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let run = super::Run::from(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.out.as_str()), (130, ""), "{}", run.err);
    assert!(run.err.contains("of 50 networks are finished, and kept in"), "{}", run.err);
    assert!(!folder.path().join("out/tables.md").exists());
}

/// The experiment, as soon as a result is kept.
fn begun(arguments: &[String], store: &str) -> Child {
    let mut command = command(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while run(&["store", "export", store, "--format", "jsonl"]).out.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(120), "nothing is kept");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[test]
fn shards_are_put_together() {
    let folder = folder();
    let mut stores = Vec::new();
    for i in 1..=2 {
        let mut part = arguments(&folder, "tract", &format!("part{i}"));
        part.extend(["--shard".to_owned(), format!("{i}/2")]);
        let run = experiment(&part);
        assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
        assert!(run.err.contains(&format!("shard {i} of 2")), "{}", run.err);
        stores.push(inside(&folder, &format!("part{i}/results.db")).1);
    }
    let (_, merged) = inside(&folder, "merged.db");
    assert_eq!(run(&["merge", &stores[0], &stores[1], "-o", &merged]).code, 0);
    let mut together = arguments(&folder, "tract", "together");
    together.extend(["--store".to_owned(), merged]);
    assert_eq!(experiment(&together).code, 0);
    let whole = arguments(&folder, "tract", "whole");
    assert_eq!(experiment(&whole).code, 0);
    assert_eq!(read(&folder, "together/tables.md"), read(&folder, "whole/tables.md"));
}

#[test]
fn mistakes_are_told_before_anything_is_computed() {
    let folder = folder();
    let (_, plan) = inside(&folder, "plan.toml");
    let (_, truth) = inside(&folder, "truth.csv");
    let out = inside(&folder, "out").1;
    let refused = |more: &[&str], says: &str| {
        let arguments = [&["experiment", plan.as_str(), "--out", &out], more].concat();
        run(&arguments).refused(&[says]);
    };
    refused(&[], "benchmark 'few': no file with accuracies was given: name one by --truth");
    refused(&["--truth", "nowhere.csv"], "nowhere.csv");
    refused(
        &["--truth", &truth, "--benchmark", "other"],
        "there is no benchmark 'other': there are 'few'",
    );
    refused(&["--truth", &truth, "--draw", "6"], "6 are to be drawn from 5");
    refused(&["--truth", &truth], "benchmark 'few': no images were given: name them by --data");
    run(&["experiment", "nowhere.toml"]).refused(&["nowhere.toml"]);
    std::fs::write(folder.path().join("plan.toml"), PLAN.replace("metric", "metrics")).unwrap();
    refused(&["--truth", &truth], "unknown field `metrics`");
    // What is read is not written over.
    std::fs::write(folder.path().join("plan.toml"), PLAN).unwrap();
    let (_, lost) = inside(&folder, "tables.csv");
    std::fs::copy(&truth, &lost).unwrap();
    let at = folder.path().to_str().unwrap();
    let arguments = ["experiment", &plan, "--truth", &lost, "--data", "synthetic", "--out", at];
    run(&arguments).refused(&["this is what is read"]);
}
