use std::collections::HashMap;

use super::*;
use crate::space::{ALL, parameters, sample};

fn spaces() -> impl Iterator<Item = &'static dyn Space> {
    let names = ["darts", "nasnet", "amoeba", "enas", "pnas"];
    ALL.iter().copied().filter(move |space| names.contains(&space.name()))
}

/// The parameters of an operation on `c` channels.
fn formula(op: &str, c: u64, stride: u64) -> u64 {
    let separable = |k: u64| k * k * c + c * c + 2 * c;
    match op {
        "skip_connect" if stride == 2 => c * c + 2 * c,
        "conv_1x1" => c * c + 2 * c,
        "conv_3x3" => 9 * c * c + 2 * c,
        "sep_conv_3x3" | "dil_sep_conv_3x3" => 2 * separable(3),
        "sep_conv_5x5" => 2 * separable(5),
        "sep_conv_7x7" => 2 * separable(7),
        "dil_conv_3x3" => separable(3),
        "dil_conv_5x5" => separable(5),
        "conv_3x1_1x3" => 6 * c * c + 2 * c,
        "conv_7x1_1x7" => 14 * c * c + 2 * c,
        _ => 0,
    }
}

#[test]
fn parameters_are_those_of_the_formula() {
    for space in spaces() {
        for architecture in sample(space, 4, 5).unwrap() {
            let read: serde_json::Value = serde_json::from_str(&architecture.notation()).unwrap();
            let number = |name: &str| read[name].as_u64().unwrap();
            let (width, depth) = (number("width"), number("depth"));
            let (mut wanted, mut c) = (87 * width, width);
            let (mut before, mut last) = (3 * width, 3 * width);
            for i in 0..depth {
                let reduces = i == depth / 3 || i == 2 * depth / 3;
                let kind = if reduces { "reduce" } else { "normal" };
                c *= if reduces { 2 } else { 1 };
                wanted += before * c + 2 * c + last * c + 2 * c;
                for edge in read["genotype"][kind].as_array().unwrap() {
                    let of_input = edge[1].as_u64().unwrap() < 2;
                    let stride = if reduces && of_input { 2 } else { 1 };
                    wanted += formula(edge[0].as_str().unwrap(), c, stride);
                }
                let joined = read["genotype"][format!("{kind}_concat")].as_array().unwrap().len();
                (before, last) = (last, joined as u64 * c);
            }
            wanted += (last + 1) * 10;
            let model = architecture.build(&BuildOptions::default()).unwrap();
            assert_eq!(parameters(&model), wanted, "{}", architecture.notation());
        }
    }
}

#[test]
fn every_operation_has_one_name() {
    let names: HashMap<String, Op> =
        ops::NAMES.iter().map(|(name, op)| ((*name).to_owned(), *op)).collect();
    assert_eq!(names.len(), ops::NAMES.len());
    for (name, op) in names {
        assert_eq!((op.to_string(), Op::try_from(name.clone())), (name, Ok(op)));
    }
}

/// A network of ENAS, as a record has it.
fn record() -> serde_json::Value {
    let cell: Vec<_> = (0..10).map(|i| ("sep_conv_3x3", i / 2 + 1)).collect();
    serde_json::json!({
        "net": {
            "genotype": {
                "normal": cell, "normal_concat": [6], "reduce": cell, "reduce_concat": [6],
            },
            "width": 16, "depth": 4, "aux": false, "drop_prob": 0.0,
        },
        "optim": {"base_lr": 0.1}, "rng_seed": 1, "params": 1, "test_ep_top1": [90.0, 8.5],
    })
}

#[test]
fn records_are_read_as_they_are() {
    let whole = ENAS.parse(&record().to_string()).unwrap();
    let alone = ENAS.parse(&record()["net"].to_string()).unwrap();
    assert_eq!(whole.name(), alone.name());
    assert_eq!(ENAS.parse(&whole.notation()).unwrap().notation(), whole.notation());
    assert_eq!(whole.name().len(), "enas-".len() + 12);
}

#[test]
fn what_is_no_network_is_refused() {
    let with = |path: &str, value: serde_json::Value| {
        let mut record = record();
        *record.pointer_mut(path).unwrap() = value;
        record.to_string()
    };
    let genotype = "/net/genotype";
    for (text, says) in [
        ("6".into(), "expected struct"),
        ("{".into(), "EOF"),
        (with("/net/aux", true.into()), "auxiliary head"),
        (with("/net/width", 0.into()), "above 0"),
        (with(&format!("{genotype}/normal/0/0"), "conv_9x9".into()), "no operation \"conv_9x9\""),
        (with(&format!("{genotype}/normal/0/0"), "conv_3x3".into()), "not among its operations"),
        (with(&format!("{genotype}/reduce/3/1"), 3.into()), "reads state 3"),
        (with(&format!("{genotype}/reduce"), serde_json::json!([])), "0 operations"),
        (with(&format!("{genotype}/normal_concat"), serde_json::json!([7])), "[7] are not"),
        (with(&format!("{genotype}/normal_concat"), serde_json::json!([2, 2])), "[2, 2] are not"),
        (with(&format!("{genotype}/normal_concat"), serde_json::json!([])), "[] are not"),
    ] {
        let error = ENAS.parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
