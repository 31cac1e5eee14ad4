//! Plans, truths, and an experiment on a few small networks.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use super::*;
use crate::engine::all_for_tests;
use crate::probe::Memory;
use crate::rank::Shard;
use crate::report::Format;
use crate::space;
use crate::store::Store;

const CELLS: [&str; 6] = [
    "|nor_conv_3x3~0|+|none~0|none~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    "|skip_connect~0|+|none~0|none~1|+|skip_connect~0|nor_conv_1x1~1|none~2|",
    "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|nor_conv_1x1~1|none~2|",
    "|avg_pool_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    "|nor_conv_1x1~0|+|nor_conv_1x1~0|none~1|+|skip_connect~0|none~1|skip_connect~2|",
];

/// A folder with a truth of the [`CELLS`].
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let rows = CELLS.iter().zip([93.0, 88.0, 85.5, 90.0, 10.0, 89.0]);
    let rows = rows.map(|(cell, accuracy)| format!("{cell},{accuracy},{}", accuracy / 2.0));
    let text = ["arch,test,half".to_owned()].into_iter().chain(rows).collect::<Vec<_>>().join("\n");
    std::fs::write(folder.path().join("truth.csv"), text).unwrap();
    folder
}

const PLAN: &str = r#"
name = "a few"
seeds = [0, 1]
aggregates = ["log-rank:flops-live,naswot", "borda"]
[scoring]
metric = ["naswot", "params-live"]
samples = 4
init = "pytorch"
[statistics]
top = 2
resamples = 50
[[benchmark]]
name = "small"
space = { name = "nasbench201", image-size = 8 }
data = "synthetic"
truth = { file = "truth.csv", values = ["test", "half"] }
[[benchmark]]
name = "smaller"
space = { name = "nasbench201", image-size = 4, classes = 3 }
data = "synthetic"
truth = { file = "truth.csv", values = "half" }
[[variant]]
name = "4"
[[variant]]
name = "6"
scoring = { samples = 6 }
"#;

fn parse(text: &str) -> crate::Result<Plan> {
    Plan::parse(text, Path::new("folder"))
}

#[test]
fn a_plan_says_all_that_is_run() {
    let plan = parse(PLAN).unwrap();
    assert_eq!(plan.benchmarks.len(), 2);
    let [small, smaller] = &plan.benchmarks[..] else { panic!("two benchmarks") };
    assert_eq!(
        (small.data.as_deref(), small.variants[0].seeds.as_slice()),
        (Some("synthetic"), &[0, 1][..])
    );
    assert_eq!(small.truth.file.as_deref(), Some(Path::new("folder/truth.csv")));
    assert_eq!((small.truth.architecture[0].as_str(), small.truth.values.len()), ("arch", 2));
    let build = &smaller.variants[0].build;
    assert_eq!((build.classes, build.image_size, build.seed), (3, 4, 0));
    let settings = |i: usize| &small.variants[i].settings;
    // With the scores of aggregates and the baselines.
    let names = ["naswot", "params-live", "flops-live", "params", "flops"];
    assert_eq!(settings(0).metrics, names);
    // An aggregate of all is of these, whatever others stand beside it.
    assert_eq!(small.variants[0].asked, ["naswot", "params-live"]);
    let baseline = parse(&PLAN.replace(r#"["naswot", "params-live"]"#, r#"["params"]"#)).unwrap();
    assert_eq!(baseline.benchmarks[0].variants[0].asked, ["params"]);
    assert_ne!(settings(0).samples, settings(1).samples);
    assert_eq!(settings(0).init, settings(1).init);
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let with = |from: &str, to: &str| {
        assert!(PLAN.contains(from), "{from}");
        parse(&PLAN.replacen(from, to, 1)).err().unwrap().to_string()
    };
    for (from, to, says) in [
        ("seeds =", "seed =", "unknown field `seed`"),
        (
            "samples = 4",
            "sample = 4",
            "benchmark 'small', variant '4': scoring: unknown field `sample`",
        ),
        ("samples = 6", "sampels = 6", "variant '6': scoring: unknown field `sampels`"),
        ("\"naswot\"", "\"nas-wot\"", "unknown score 'nas-wot'"),
        ("\"borda\"", "\"jacob\"", "unknown aggregate 'jacob'"),
        ("\"nasbench201\"", "\"nasbench2\"", "unknown search space 'nasbench2'"),
        ("image-size = 8", "size = 8", "space: unknown field `size`"),
        ("\"smaller\"", "\"small\"", "the benchmark 'small' is there twice"),
        ("name = \"6\"", "name = \"4\"", "the variant '4' is there twice"),
        ("[0, 1]", "[0, 0]", "the seed '0' is there twice"),
        ("top = 2", "top = 0", "a short list needs a network"),
        ("init = \"pytorch\"", "repeats = 2\nmetric = []", "duplicate key"),
        ("init = \"pytorch\"", "repeats = 2", "repeats differ only in what is drawn"),
        ("init = \"pytorch\"", "init = \"torch\"", "torch"),
        ("values = \"half\"", "values = []", "name one at least"),
        ("values = \"half\"", "value = \"half\"", "unknown field `value`"),
    ] {
        let error = with(from, to);
        assert!(error.contains(says), "{from} -> {to}: {error}");
    }
    let error = parse("name = \"x\"").err().unwrap().to_string();
    assert!(error.contains("missing field `benchmark`"), "{error}");
    let error = Plan::read(Path::new("nowhere.toml")).err().unwrap().to_string();
    assert!(error.contains("nowhere.toml"), "{error}");
}

#[test]
fn recipes_are_plans() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        Plan::read(&path).unwrap_or_else(|error| panic!("{error}"));
        count += 1;
    }
    assert!(count > 5);
}

#[test]
fn the_file_of_the_documentation_is_a_plan() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/experiments.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    parse(text).unwrap();
}

fn truth(name: &str, text: &str, keys: &str) -> crate::Result<Accuracies> {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    let file: TruthFile = toml::from_str(&format!("file = \"{name}\"\n{keys}")).unwrap();
    file.located(folder.path()).read(space::named("nasbench201").unwrap())
}

#[test]
fn accuracies_come_from_tables() {
    let [a, b] = [CELLS[0], CELLS[1]];
    let found = truth(
        "t.csv",
        &format!("i,arch,x,y\n0,{a},90,\n1,{b},80,1\n2,{a},92,3\n"),
        "values = [\"y\", \"x\"]",
    );
    let found = found.unwrap();
    assert_eq!(found.of(a), Some(&[Some(3.0), Some(91.0)][..]));
    assert_eq!(found.of(b), Some(&[Some(1.0), Some(80.0)][..]));
    assert_eq!((found.of(CELLS[2]), found.repeated), (None, 1));
    assert_eq!(found.notations().collect::<Vec<_>>(), [a, b]);
    for (text, says) in [
        ("arch,y\na,1\n".to_owned(), "there is no column 'x'; there are arch, y"),
        ("arch,x\n".to_owned(), "there are no rows"),
        ("arch,x\n|none~0|,1\n".to_owned(), "no cell of nasbench201"),
        (format!("arch,x\n{a},good\n"), "is 'good', which is not a finite number"),
        (format!("arch,x\n{a},inf\n"), "is 'inf'"),
    ] {
        let error = truth("t.csv", &text, "values = \"x\"").unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("t.csv"), "{error}");
    }
}

#[test]
fn accuracies_come_from_records() {
    let [a, b] = [CELLS[0], CELLS[1]];
    let keys = "architecture = \"net\"\nvalues = [\"test_ep_top1\", \"score\"]";
    let record = |net: &str, error: f64| {
        format!(r#"{{"net": "{net}", "test_ep_top1": [90.0, {error}], "score": 7, "other": {{}}}}"#)
    };
    for text in [
        format!("[{}, {}]", record(a, 6.5), record(b, 12.25)),
        format!(r#"{{"top": [{}], "mid": [{}]}}"#, record(a, 6.5), record(b, 12.25)),
    ] {
        let found = truth("t.json", &text, keys).unwrap();
        assert_eq!(found.of(a), Some(&[Some(93.5), Some(7.0)][..]));
        assert_eq!(found.of(b), Some(&[Some(87.75), Some(7.0)][..]));
    }
    for (text, says) in [
        ("[{\"net\": 1}]", "no cell of nasbench201"),
        ("[{\"arch\": 1}]", "a record has no field 'net'; it has arch"),
        ("[1]", "invalid type"),
        ("[", "EOF"),
    ] {
        let keys =
            if says.contains("cell") { "architecture = \"net\"\nvalues = \"net\"" } else { keys };
        let error = truth("t.json", text, keys).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    // What a file has is put into the form of the space.
    let form = "architecture = \"x\"\nvalues = \"y\"\nform = \"|none~0|+|none~0|none~1|+|{}~0|none~1|none~2|\"";
    let found = truth("t.csv", "x,y\n n o n e ,3\n", form).unwrap();
    assert_eq!(found.of(CELLS[4]), Some(&[Some(3.0)][..]));
}

/// As it is published, with what is not read left out.
#[test]
fn records_of_nds_are_read_as_they_are() {
    let cell = r#"[["skip_connect", 0], ["sep_conv_3x3", 1], ["max_pool_3x3", 0], ["none", 1],
        ["dil_conv_3x3", 2], ["skip_connect", 0], ["avg_pool_3x3", 1], ["dil_conv_5x5", 3]]"#;
    let genotype = format!(
        r#"{{"normal": {cell}, "normal_concat": [2, 3, 4, 5], "reduce": {cell}, "reduce_concat": [2, 3, 4, 5]}}"#
    );
    let record = format!(
        r#"[{{"net": {{"genotype": {genotype}, "width": 16, "depth": 8, "aux": false, "drop_prob": 0.0}},
            "optim": {{"base_lr": 0.1}}, "rng_seed": 1, "train_ep_top1": [50, 20],
            "test_ep_top1": [60.0, 7.5], "min_test_top1": 7.25, "params": 1.0, "flops": 2.0}}]"#
    );
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("DARTS.json"), record).unwrap();
    let keys = "file = \"DARTS.json\"\narchitecture = \"net\"\nvalues = [\"test_ep_top1\", \"min_test_top1\"]";
    let file: TruthFile = toml::from_str(keys).unwrap();
    let found = file.located(folder.path()).read(space::named("darts").unwrap()).unwrap();
    let notation = found.notations().next().unwrap().to_owned();
    assert_eq!(found.of(&notation), Some(&[Some(92.5), Some(92.75)][..]));
}

#[test]
fn cells_of_a_table_may_be_json() {
    let text = "matrix,ops,test\n\"[[0,1],[0,0]]\",\"[\"\"input\"\",\"\"output\"\"]\",91\n";
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("t.csv"), text).unwrap();
    let keys = "file = \"t.csv\"\narchitecture = [\"matrix\", \"ops\"]\nvalues = \"test\"";
    let file: TruthFile = toml::from_str(keys).unwrap();
    let found = file.located(folder.path()).read(space::named("nasbench101").unwrap()).unwrap();
    assert_eq!(found.notations().count(), 1);
}

#[test]
fn architectures_are_chosen() {
    let space = space::named("nasbench201").unwrap();
    let text = format!("arch,x\n{}\n", CELLS.map(|cell| format!("{cell},1")).join("\n"));
    let truth = truth("t.csv", &text, "values = \"x\"").unwrap();
    let choose = |text: &str| -> crate::Result<Vec<String>> {
        let choice: Choice = toml::from_str(text).unwrap();
        Ok(choice.of(space, &truth)?.iter().map(|a| a.notation()).collect())
    };
    assert_eq!(choose("").unwrap(), CELLS);
    let (three, others) = (choose("draw = 3").unwrap(), choose("draw = 3\nseed = 1").unwrap());
    assert_eq!((three.len(), &three), (3, &choose("draw = 3").unwrap()));
    assert_ne!(three, others);
    // Of more, these are a part.
    let four = choose("draw = 4").unwrap();
    assert!(three.iter().all(|name| four.contains(name)));
    assert_eq!(choose("from = \"space\"").unwrap().len(), 15_625);
    assert_eq!(choose("from = \"space\"\ndraw = 10").unwrap().len(), 10);
    let named = choose(&format!("list = [\"6\", \"{}\", \"6\"]", CELLS[1])).unwrap();
    assert_eq!(named, [CELLS[0], CELLS[1]]);
    for (text, says) in [("draw = 7", "7 are to be drawn from 6"), ("list = [\"x\"]", "no cell of")]
    {
        assert!(choose(text).unwrap_err().to_string().contains(says));
    }
}

/// The plan with three of the cells.
fn three(folder: &Path) -> Plan {
    let mut plan = Plan::parse(PLAN, folder).unwrap();
    plan.architectures.list = [CELLS[0], CELLS[3], CELLS[4]].map(String::from).to_vec();
    plan
}

/// Stops before a number of networks.
struct Stop {
    before: usize,
    seconds: Vec<f64>,
}

impl Watch for Stop {
    fn next(&mut self, finished: usize, _: &str) -> ControlFlow<()> {
        if finished >= self.before { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn finished(&mut self, result: &crate::score::ModelResult) {
        self.seconds.push(result.seconds);
    }
}

fn texts(results: &Results) -> [String; 3] {
    let mut texts = [Vec::new(), Vec::new(), Vec::new()];
    tables::write(results, Format::Markdown, &mut texts[0]).unwrap();
    tables::csv(results, &mut texts[1]).unwrap();
    tables::networks(results, &mut texts[2]).unwrap();
    texts.map(|text| String::from_utf8(text).unwrap())
}

#[test]
fn what_was_stopped_goes_on_to_the_same_tables() {
    let folder = folder();
    let store = |name: &str| Store::open(&folder.path().join(name)).unwrap();
    for engine in all_for_tests() {
        let run = |store: &Store, before: usize, shard: Option<Shard>| {
            let mut plan = three(folder.path());
            let variants = plan.benchmarks.iter_mut().flat_map(|benchmark| &mut benchmark.variants);
            variants.for_each(|variant| variant.seeds.truncate(1));
            let (experiment, warnings) = Experiment::new(plan).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(experiment.networks(None).unwrap(), 3 * 2 * 2);
            let memory = Memory::default();
            let computed = &AtomicUsize::new(0);
            let means = Means { engine: &*engine, memory, store: Some(store), shard, computed };
            let mut stop = Stop { before, seconds: Vec::new() };
            let outcome = experiment.run(&means, &mut stop).unwrap();
            (outcome, stop.seconds, computed.load(Ordering::Relaxed))
        };
        let name = engine.describe().name;
        let (whole, stopped) = (store(&format!("{name}-a.db")), store(&format!("{name}-b.db")));
        let (Outcome::Done(at_once), _, 12) = run(&whole, usize::MAX, None) else {
            panic!("not done");
        };
        let (Outcome::Partly(5), begun, _) = run(&stopped, 5, None) else { panic!("not stopped") };
        let (Outcome::Partly(_), ..) = run(&stopped, usize::MAX, Some(Shard::new(1, 2).unwrap()))
        else {
            panic!("a part is no whole");
        };
        let (Outcome::Done(resumed), seconds, computed) = run(&stopped, usize::MAX, None) else {
            panic!("not done");
        };
        // What was finished is not computed again.
        assert!(computed <= 7, "{computed}");
        assert_eq!(begun, seconds[..5], "{name}");
        assert_eq!(texts(&at_once), texts(&resumed), "{name}");

        let page = page(&resumed, Some("gradalign experiment plan.toml")).unwrap();
        for part in ["a few", "small, 4: test", "by variant", "Mean rank over 2 benchmarks"] {
            assert!(page.contains(part), "no '{part}' in the page");
        }
        assert!(!page.contains("{{"));
    }
}

#[test]
fn scores_are_means_over_draws() {
    let folder = folder();
    let store = Store::open(&folder.path().join("results.db")).unwrap();
    let engine = &*all_for_tests()[0];
    let mut plan = three(folder.path());
    plan.benchmarks.iter_mut().for_each(|benchmark| benchmark.variants.truncate(1));
    let (experiment, _) = Experiment::new(plan).unwrap();
    let (memory, computed) = (Memory::default(), &AtomicUsize::new(0));
    let means = Means { engine, memory, store: Some(&store), shard: None, computed };
    let mut stop = Stop { before: usize::MAX, seconds: Vec::new() };
    let Outcome::Done(results) = experiment.run(&means, &mut stop).unwrap() else {
        panic!("not done");
    };
    let benched = &results.benchmarks[0];
    let names: Vec<&str> = benched.columns.iter().map(|column| column.name.as_str()).collect();
    let scores = ["naswot", "params-live", "flops-live", "log-rank:flops-live,naswot", "borda"];
    assert_eq!(names, [&scores[..], &["params", "flops"]].concat());
    let naswot = &benched.columns[0];
    assert_eq!((naswot.values.len(), naswot.draws.len()), (3, 2));
    let mean = naswot.draws[0][0].unwrap() / 2.0 + naswot.draws[1][0].unwrap() / 2.0;
    assert!((naswot.values[0].unwrap() - mean).abs() < 1e-9);
    // Counts do not change with the draws. Nothing of the cell of zeros alone is live.
    let live = &benched.columns[1];
    assert!(live.draws.is_empty());
    assert_eq!((live.values[0], live.values[2]), (Some(559_386.0), Some(0.0)));
    let truth = &benched.truths[0];
    assert_eq!((truth.networks, truth.best), (3, 93.0));
    let by_live = &truth.scores[1];
    assert_eq!((by_live.first.value, by_live.regret.value), (Some(93.0), Some(0.0)));
    assert!(by_live.kendall_tau.interval.is_some());
    assert_eq!(results.mean_ranks.len(), 1);
    let ranked: HashSet<&str> =
        results.mean_ranks[0].scores.iter().map(|rank| rank.score.as_str()).collect();
    assert_eq!(ranked, names.iter().copied().collect());
}

#[test]
fn networks_without_an_accuracy_are_left_out_with_a_warning() {
    let folder = folder();
    let with = |more: &str| {
        let plan = PLAN.replace("[statistics]", &format!("[architectures]\n{more}\n[statistics]"));
        Experiment::new(Plan::parse(&plan, folder.path()).unwrap())
    };
    let (experiment, warnings) = with("list = [\"0\", \"6\"]").unwrap();
    assert_eq!(experiment.networks(None).unwrap(), 8);
    assert!(warnings[0].contains("no accuracy of 1 of 2 architectures"), "{warnings:?}");
    let plan = PLAN.replace("image-size = 8", "image-size = 7");
    let error = Experiment::new(Plan::parse(&plan, folder.path()).unwrap()).err().unwrap();
    assert!(
        error.to_string().contains("benchmark 'small': nasbench201: its networks cannot take"),
        "{error}"
    );
    let error = with("list = [\"0\"]").err().unwrap().to_string();
    assert!(error.contains("benchmark 'small': the truth has no accuracy of any"), "{error}");
}
