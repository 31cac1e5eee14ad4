//! Records: jobs given to a worker, lines as they come, names, and the schema of it all.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use gradalign::rank::Ranking;
use gradalign::report::read;
use gradalign::score::{EngineSettings, Job, Record, ScoreSettings};
use gradalign::source::ModelRef;
use serde_json::Value;
use tempfile::TempDir;

use super::schema::Schema;
use super::{DIGITS, SMALL, command, engines, gradalign, inside, row, value};

/// What `gradalign worker` says to `lines`, with its exit code and standard error.
fn worker(lines: &str) -> (i32, String, String) {
    let mut child = command(&["worker"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn line(job: &Job) -> String {
    serde_json::to_string(job).unwrap() + "\n"
}

#[test]
fn a_worker_gives_the_records_that_score_gives() {
    let metrics = ["gradalign-1", "te-nas", "naswot"];
    let settings = ScoreSettings::new().metrics(metrics).init("pytorch").repeats(2).seed(3);
    for engine in engines() {
        let options = "--init pytorch --repeats 2 --seed 3 --format jsonl";
        let run = gradalign(&format!(
            "score {SMALL} nowhere.onnx --data {DIGITS} --metric gradalign-1,te-nas,naswot \
             --engine {engine} --jobs 1 {options}"
        ));
        assert_eq!(run.code, 1, "{}", run.err);
        let job = |model: &str| Job {
            model: ModelRef::new(model),
            data: DIGITS.into(),
            settings: settings.clone(),
            engine: EngineSettings { name: engine.into(), ..EngineSettings::default() },
            memory: None,
            own_memory: None,
        };
        let (code, out, err) = worker(&(line(&job(SMALL)) + &line(&job("nowhere.onnx"))));
        assert_eq!(code, 1, "{err}");
        let without_time = |text: &str| {
            let mut records = read(text, "output").unwrap();
            records.iter_mut().for_each(|record| record.result.seconds = 0.0);
            records
        };
        let (scored, worked) = (without_time(&run.out), without_time(&out));
        assert_eq!(scored, worked, "{engine}");
        assert_eq!(worked[1].result.error.as_ref().unwrap().kind, "io");
        let te_nas = worked[0].result.scores.get("te-nas").unwrap();
        assert_eq!((te_nas.values.len(), te_nas.parts.len()), (2, 2));
    }
}

#[test]
fn what_is_not_a_job_ends_a_worker() {
    let (code, out, err) = worker("{\"model\": 3}\n");
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(err.contains("line 1 of standard input is not a job"), "{err}");
    assert_eq!(worker("").0, 0);
}

#[test]
fn records_of_a_file_are_ranked_as_they_were() {
    let models = "models/mlp.onnx models/sklearn-mlp.onnx fixtures/extra/opset7.onnx";
    let options =
        format!("--data {DIGITS} --metric te-nas,gradalign-1 --samples 20 --engine tract");
    let ranked = gradalign(&format!("rank {models} {options} --format json --aggregate"));
    let report = ranked.json(0);
    let lines = gradalign(&format!("rank {models} {options} --format jsonl"));
    assert_eq!((lines.code, lines.err.as_str()), (0, ""));
    for records in [read(&ranked.out, "document").unwrap(), read(&lines.out, "lines").unwrap()] {
        let again = reranked(records);
        for model in report["models"].as_array().unwrap() {
            let name = model["model"].as_str().unwrap();
            for score in ["te-nas", "gradalign-1", "aggregate"] {
                assert_eq!(value(row(&again, name), score), value(model, score), "{name} {score}");
            }
        }
    }
}

/// The document of a ranking that is made again.
fn reranked(records: Vec<Record>) -> Value {
    let mut ranking = Ranking::of(records).unwrap();
    ranking.sum_ranks();
    ranking.aggregate(&"borda".parse().unwrap());
    serde_json::to_value(&ranking).unwrap()
}

#[test]
fn files_of_one_name_are_told_apart() {
    let folder = TempDir::new().unwrap();
    for name in ["a", "b"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        std::fs::copy(SMALL, folder.path().join(name).join("model.onnx")).unwrap();
    }
    let models = folder.path().to_str().unwrap();
    let options = format!("--data {DIGITS} --metric params");
    let report = gradalign(&format!("rank {models} {options} --format json")).json(0);
    for (model, name) in report["models"].as_array().unwrap().iter().zip(["a", "b"]) {
        assert_eq!(model["model"], "model.onnx");
        assert_eq!(model["name"], format!("{name}/model.onnx"));
        assert!(model["path"].as_str().unwrap().starts_with(models));
    }
    // They are one network under two names.
    assert_eq!(report["models"][0]["key"], report["models"][1]["key"]);
    let table = gradalign(&format!("rank {models} {options}")).out;
    assert!(table.contains("a/model.onnx") && table.contains("b/model.onnx"), "{table}");

    let (path, truth) = inside(&folder, "truth.csv");
    std::fs::write(&path, "model,accuracy\nmodel.onnx,80\n").unwrap();
    let rank = || gradalign(&format!("rank {models} {options} --truth {truth} --format json"));
    rank().refused(&["'model'", "a/model.onnx, b/model.onnx"]);
    std::fs::write(&path, "model,accuracy\na/model,80\nb/model.onnx,70\n").unwrap();
    assert_eq!(rank().json(0)["correlation"]["params"]["top1_accuracy"], 75.0);
}

#[test]
fn lines_have_no_place_for_what_a_ranking_adds() {
    let folder = TempDir::new().unwrap();
    let (path, truth) = inside(&folder, "truth.csv");
    std::fs::write(&path, "model,accuracy\nmlp,80\n").unwrap();
    let run = gradalign(&format!(
        "rank models/mlp.onnx --data {DIGITS} --metric params --truth {truth} --aggregate \
         --format jsonl"
    ));
    assert_eq!(run.code, 0, "{}", run.err);
    for what in ["no place for the correlation", "no place for an aggregate"] {
        assert_eq!(run.err.matches(what).count(), 1, "{}", run.err);
    }
    // Into a file they go together.
    let (path, out) = inside(&folder, "out.jsonl");
    let options = format!("--data {DIGITS} --metric params --format jsonl --out {out}");
    let written = gradalign(&format!("rank {SMALL} models/mlp.onnx {options}"));
    assert_eq!((written.code, written.out.as_str()), (0, ""), "{}", written.err);
    let records = read(&std::fs::read_to_string(path).unwrap(), "out.jsonl").unwrap();
    let names: Vec<_> = records.iter().map(|record| record.result.name.as_str()).collect();
    assert_eq!(names, ["opset11.onnx", "mlp.onnx"]);
}

/// The first record comes while the second model is still being scored, and stays when that is
/// interrupted.
#[cfg(unix)]
#[test]
fn a_line_is_printed_as_soon_as_it_is_known() {
    let options = "--data synthetic --samples 4000 --metric params,gradalign-1 --engine tract \
                   --jobs 1 --format jsonl";
    let arguments = format!("score fixtures/broken/empty.onnx models/resnet20.onnx {options}");
    let mut child = command(&arguments.split_whitespace().collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "it ended before the line was read");
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.as_str()), (Some(130), ""));
    assert_eq!(read(&first, "line").unwrap()[0].result.name, "empty.onnx");
}

/// A reader that leaves early, as `| head -1` does, ends the work.
#[test]
fn lines_end_with_their_reader() {
    let models = vec![SMALL; 200].join(" ");
    let options = "--samples 20 --metric params --engine tract --jobs 1 --format jsonl";
    let arguments = format!("score {models} --data {DIGITS} {options}");
    let mut child = command(&arguments.split_whitespace().collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

#[test]
fn what_is_written_is_what_the_schema_says() {
    let schema = Schema::read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/record.schema.json"));
    let folder = TempDir::new().unwrap();
    let (path, truth) = inside(&folder, "truth.csv");
    std::fs::write(&path, "model,accuracy\nmlp,80\nopset11,70\n").unwrap();
    let models = format!("{SMALL} models/mlp.onnx fixtures/broken/quantised.onnx");
    let options = "--metric all --init normal --repeats 2 --mean 0.5 --std 0.5 --samples 20 \
                   --shape input=1x1x16x16 --batch-axis input=0 --no-params x --engine tract";
    let run = |format: &str| {
        gradalign(&format!("rank {models} --data {DIGITS} {options} --format {format}"))
    };
    let document = run(&format!("json --aggregate --truth {truth}"));
    schema.check(&document.json(1));
    let lines = run("jsonl");
    assert_eq!(lines.out.lines().count(), 3);
    let lines: Vec<Value> =
        lines.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.iter().for_each(|line| schema.check(line));
    let scored = lines.iter().find(|line| line["error"].is_null()).unwrap();
    schema.check(&gradalign(&format!("score {SMALL} --data synthetic --format json")).json(0));

    // A field that is added must be documented first, and none may be left out.
    for (place, name) in [("", "more"), ("/settings", "more"), ("/scores/naswot", "more")] {
        let mut line = scored.clone();
        let object = line.pointer_mut(place).unwrap().as_object_mut().unwrap();
        object.insert(name.into(), Value::Null);
        assert!(schema.problem(&line).is_some_and(|why| why.contains("more")), "{place}");
    }
    for name in ["key", "scores", "settings", "models"] {
        let mut document = document.json(1);
        let has = |value: &mut Value| value.as_object_mut().unwrap().remove(name).is_some();
        assert!(has(&mut document) || has(&mut document["models"][0]), "{name}");
        assert!(schema.problem(&document).is_some(), "{name}");
    }
    let mut line = scored.clone();
    line["parameters"] = "many".into();
    assert!(schema.problem(&line).is_some());
    // What failed has no scores.
    let mut line = lines.iter().find(|line| !line["error"].is_null()).unwrap().clone();
    line["scores"] = scored["scores"].clone();
    assert!(schema.problem(&line).is_some());
}
