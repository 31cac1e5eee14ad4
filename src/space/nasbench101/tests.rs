use super::*;
use crate::space::parameters;

const CONV3: &str = "conv3x3-bn-relu";
const CONV1: &str = "conv1x1-bn-relu";
const POOL: &str = "maxpool3x3";

/// A cell with rows such as `0110` and these operations between input and output.
fn text(rows: &[&str], between: &[&str]) -> String {
    let matrix: Vec<Vec<u32>> =
        rows.iter().map(|row| row.chars().map(|c| c.to_digit(10).unwrap()).collect()).collect();
    let ops = [&["input"], between, &["output"]].concat();
    serde_json::json!({ "matrix": matrix, "ops": ops, "accuracy": 94.0 }).to_string()
}

#[test]
fn cells_are_named_by_their_hash_and_without_what_does_nothing() {
    // A vertex that the output does not depend on, and the others in another order.
    let cell = NasBench101.parse(&text(&["0110", "0001", "0001", "0000"], &[CONV3, POOL])).unwrap();
    let rows = ["01110", "00001", "00000", "00001", "00000"];
    let other = NasBench101.parse(&text(&rows, &[POOL, CONV1, CONV3])).unwrap();
    assert_eq!(cell.name(), other.name());
    assert_eq!(
        other.notation(),
        r#"{"matrix":[[0,1,1,0],[0,0,0,1],[0,0,0,1],[0,0,0,0]],"ops":["input","maxpool3x3","conv3x3-bn-relu","output"]}"#
    );
    let again = NasBench101.parse(&other.notation()).unwrap();
    assert_eq!(again.notation(), other.notation());
    let another = NasBench101.parse(&text(&["0110", "0001", "0001", "0000"], &[CONV3, CONV3]));
    assert_ne!(another.unwrap().name(), cell.name());
}

/// The parameters of a network of a cell without vertices that do nothing.
fn formula(rows: &[&str], ops: &[&str], stem: usize, classes: usize) -> usize {
    let count = rows.len();
    let edge = |from: usize, to: usize| rows[from].as_bytes()[to] == b'1';
    let conv = |k: usize, i: usize, o: usize| k * k * i * o + 2 * o;
    let mut total = conv(3, 3, stem) + (4 * stem + 1) * classes;
    let mut from = stem;
    for to in [1, 1, 1, 2, 2, 2, 4, 4, 4].map(|times| times * stem) {
        let read: Vec<usize> = (1..count - 1).filter(|&v| edge(v, count - 1)).collect();
        let mut widths = vec![0; count];
        for (i, &v) in read.iter().enumerate() {
            widths[v] = to / read.len() + usize::from(i < to % read.len());
        }
        for v in (1..count - 1).rev().filter(|v| !read.contains(v)) {
            widths[v] =
                (v + 1..count - 1).filter(|&w| edge(v, w)).map(|w| widths[w]).max().unwrap();
        }
        widths[count - 1] = to;
        for (v, &width) in widths.iter().enumerate().skip(1) {
            total += if edge(0, v) { conv(1, from, width) } else { 0 };
            total += match ops.get(v - 1) {
                Some(&CONV3) => conv(3, width, width),
                Some(&CONV1) => conv(1, width, width),
                _ => 0,
            };
        }
        from = to;
    }
    total
}

#[test]
fn parameters_are_those_of_the_formula() {
    let cells: [(&[&str], &[&str]); 4] = [
        (&["01", "00"], &[]),
        (&["0111", "0011", "0001", "0000"], &[CONV3, POOL]),
        (&["01110", "00001", "00001", "00001", "00000"], &[CONV3, CONV1, POOL]),
        (
            &["0110000", "0011000", "0001000", "0000110", "0000001", "0000001", "0000000"],
            &[CONV1, CONV3, POOL, CONV3, CONV3],
        ),
    ];
    for (rows, ops) in cells {
        for (stem, classes) in [(128, 10), (16, 1)] {
            let options = BuildOptions { classes, stem: Some(stem), ..BuildOptions::default() };
            let model = NasBench101.parse(&text(rows, ops)).unwrap().build(&options).unwrap();
            let wanted = formula(rows, ops, stem, classes) as u64;
            assert_eq!(parameters(&model), wanted, "{rows:?} {ops:?} {stem}");
        }
    }
}

#[test]
fn the_stem_decides_the_initialisation() {
    let cell = NasBench101.parse(&text(&["011", "001", "000"], &[CONV3])).unwrap();
    let built = |stem| {
        let model = cell.build(&BuildOptions { stem, ..BuildOptions::default() }).unwrap();
        let of = |name: &str| {
            let found = model.graph.initializers.iter().find(|i| i.name == name).unwrap();
            let values = found.literal.tensor.as_ref().unwrap().to_f64();
            let mean = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            (values.len(), mean)
        };
        [of("stack2.cell0.vertex1.conv.weight"), of("classifier.weight"), of("classifier.bias")]
    };
    // N(0, 2/(9·64)), N(0, 0.01²), 0.
    let [conv, linear, bias] = built(Some(16));
    assert!((conv.1 * 9.0 * 64.0 / 2.0 - 1.0).abs() < 0.02, "{conv:?}");
    assert!((linear.1 * 1e4 - 1.0).abs() < 0.15, "{linear:?}");
    assert_eq!(bias, (10, 0.0));
    // U(−1/√fan_in, 1/√fan_in), of which the variance is 1/(3·fan_in).
    let [conv, linear, bias] = built(None);
    assert!((conv.1 * 3.0 * 9.0 * 512.0 - 1.0).abs() < 0.02, "{conv:?}");
    assert!((linear.1 * 3.0 * 512.0 - 1.0).abs() < 0.1, "{linear:?}");
    assert!(bias.1 > 0.0 && bias.1 < 1.0 / 512.0);
}

#[test]
fn what_is_no_cell_is_refused() {
    let all = ["0111111", "0011111", "0001111", "0000111", "0000011", "0000001", "0000000"];
    for (text, says) in [
        ("|none~0|".into(), "expected value"),
        (r#"{"matrix": [[0, 1], [0, 0]]}"#.into(), "missing field `ops`"),
        (text(&["010", "001", "000"], &["conv5x5"]), "no operation \"conv5x5\""),
        (text(&["010", "001"], &[CONV3]), "3 rows of 3"),
        (text(&["020", "001", "000"], &[CONV3]), "of 0 and 1"),
        (text(&["010", "101", "000"], &[CONV3]), "to a later one"),
        (text(&["010", "000", "000"], &[CONV3]), "no way leads"),
        (text(&all, &[CONV3; 5]), "7 vertices and 21 edges"),
        (text(&["011", "001", "000"], &[CONV3]).replace("output", "out"), "the last \"output\""),
        (r#"{"matrix": [], "ops": []}"#.into(), "two operations at least"),
    ] {
        let error = NasBench101.parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let cell = NasBench101.parse(&text(&["01", "00"], &[])).unwrap();
    let error = cell.build(&BuildOptions { stem: Some(64), ..BuildOptions::default() });
    assert!(error.unwrap_err().to_string().contains("choose 128 or 16"));
}
