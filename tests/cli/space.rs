//! `gradalign space`.

use tempfile::TempDir;

use super::{gradalign, inside, run};

const NASBENCH201: [&str; 2] = [
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
];

fn files(folder: &TempDir) -> Vec<String> {
    let entries = folder.path().read_dir().unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn networks_are_written_counted_and_scored() {
    let folder = TempDir::new().unwrap();
    let (_, out) = inside(&folder, "new/networks");
    let done =
        run(&["space", "nasbench201", "-o", &out, "--index", "0,1", "--arch", NASBENCH201[1]]);
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!((done.code, lines.len()), (0, 2), "{}", done.err);
    assert_eq!(lines[0], format!("{out}/nasbench201-0.onnx: 129306 parameters"));
    assert_eq!(lines[1], format!("{out}/nasbench201-1.onnx: 802426 parameters"));

    let inspected = gradalign(&format!("inspect {out}/nasbench201-0.onnx --format json")).json(0);
    assert_eq!(inspected["network"]["trainable"], 129_306);
    assert_eq!(inspected["network"]["flops"], 15_647_360);
    let ranked = "--data synthetic --samples 2 --metric params --engine tract --format json";
    let report = gradalign(&format!("rank {out} {ranked}")).json(0);
    assert_eq!(report["models"][0]["model"], "nasbench201-1.onnx");

    // Again: what is there is what would be written.
    let again = gradalign(&format!("space nasbench201 -o {out} --index 0,1"));
    assert_eq!((again.code, again.out), (0, done.out));
    // Another one is not written over.
    let other = gradalign(&format!("space nasbench201 -o {out} --index 0 --seed 1"));
    other.refused(&["nasbench201-0.onnx: another file is there"]);
}

#[test]
fn one_network_goes_into_a_file() {
    let folder = TempDir::new().unwrap();
    let (_, file) = inside(&folder, "network.onnx");
    let space = format!("space natsbench-size -o {file}");
    let done = gradalign(&format!("{space} --arch 8:8:8:16:40 --classes 100 --image-size 16"));
    // The published number for 10 classes, and 41 for each more.
    assert_eq!(done.out, format!("{file}: {} parameters\n", 67_378 + 41 * 90));
    assert_eq!(files(&folder), ["network.onnx"]);
    gradalign(&format!("{space} --index 1,2")).refused(&["2 networks", "name a folder"]);
}

#[test]
fn architectures_come_from_files_and_from_chance() {
    let folder = TempDir::new().unwrap();
    let (path, list) = inside(&folder, "list.json");
    std::fs::write(&path, serde_json::json!(NASBENCH201).to_string()).unwrap();
    let (_, out) = inside(&folder, "out");
    let done = gradalign(&format!("space nasbench201 -o {out} --arch-file {list}"));
    assert_eq!((done.code, done.out.lines().count()), (0, 2), "{}", done.err);

    let drawn = |space: &str, options: &str| {
        let folder = TempDir::new().unwrap();
        let out = folder.path().to_str().unwrap();
        let done = gradalign(&format!("space {space} -o {out} --image-size 16 {options}"));
        assert_eq!(done.code, 0, "{}", done.err);
        files(&folder)
    };
    let names = drawn("nasbench101", "--stem 16 --random 3");
    assert_eq!(names.len(), 3);
    assert_eq!(names, drawn("nasbench101", "--stem 16 --random 3 --classes 1"));
    assert_ne!(names, drawn("nasbench101", "--stem 16 --random 3 --seed 1"));
    assert!(names.iter().all(|name| name.len() == "nasbench101-.onnx".len() + 32));
}

/// A cell that never reads one of its inputs has parameters without effect.
#[test]
fn dead_parameters_are_counted_and_kept() {
    let folder = TempDir::new().unwrap();
    let (path, record) = inside(&folder, "record.json");
    let cell: Vec<_> = (0..10).map(|_| ("sep_conv_3x3", 1)).collect();
    let genotype = serde_json::json!({
        "normal": cell, "normal_concat": [2, 3, 4, 5, 6],
        "reduce": cell, "reduce_concat": [2, 3, 4, 5, 6],
    });
    let network = serde_json::json!({ "genotype": genotype, "width": 4, "depth": 3 });
    std::fs::write(&path, network.to_string()).unwrap();
    let (_, file) = inside(&folder, "enas.onnx");
    let done = gradalign(&format!("space enas -o {file} --arch-file {record} --image-size 8"));
    let [all, live] = done
        .out
        .strip_prefix(&format!("{file}: "))
        .and_then(|rest| rest.strip_suffix(" of them in use\n"))
        .and_then(|rest| rest.split_once(" parameters, "))
        .map(|(all, live)| [all, live].map(|n| n.parse::<u64>().unwrap()))
        .unwrap();
    // Of each of three cells, what makes its first input of the result of the last cell but one.
    let preprocess = [(12, 4), (12, 8), (20, 16)].map(|(from, to)| from * to + 2 * to);
    assert_eq!(all - live, preprocess.iter().sum::<u64>());
    let inspected = gradalign(&format!("inspect {file} --format json")).json(0);
    assert_eq!(inspected["network"]["trainable"], live);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = TempDir::new().unwrap();
    let (_, out) = inside(&folder, "out");
    for (options, says) in [
        ("nasbench201 --index 15625", "they go from 0 to 15624"),
        ("nasbench201 --random 15626", "there are 15625 architectures"),
        ("nasbench201 --arch |none~0|", "no cell of nasbench201"),
        ("nasbench201 --index 0 --stem 16", "leave --stem out"),
        ("nasbench201 --index 0 --image-size 30", "make --image-size a multiple of 4"),
        ("nasbench201 --index 0 --classes 0", "raise --classes"),
        ("nasbench101 --index 0", "no order to count by"),
        ("nasbench101 --random 1 --stem 17", "choose 128 or 16"),
        ("darts --arch {}", "no network of darts"),
        ("darts --arch-file nowhere.json", "nowhere.json"),
        ("darts", "required"),
        ("nasbench2 --index 0", "possible values"),
    ] {
        gradalign(&format!("space {options} -o {out}")).refused(&[says]);
    }
    assert_eq!(files(&folder), Vec::<String>::new());
}
