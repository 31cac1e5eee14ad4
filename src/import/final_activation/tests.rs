//! A model has the same loss and gradients for every form of its final activation. They are compared
//! with PyTorch's on every engine.

use super::*;
use crate::emit::emit_bytes;
use crate::engine::{Compiled, Engine, all_for_tests};
use crate::graph::{Fact, eval};
use crate::import::made::{Made, node};
use crate::import::{ImportOptions, Imported, import};
use crate::onnx::{Attribute, DataType, Graph, Model, Type, ValueInfo};
use crate::tensor::{DType, Tensor};
use crate::transform::{LABELS, Loss};
use crate::transform::{Reduction, training_graph};

/// A perceptron with the logits `z`, and constants for the final activations below.
fn perceptron(columns: usize) -> Made {
    Made::new(&[0, 4])
        .weight("w1", &[4, 5])
        .weight("b1", &[5])
        .weight("w2", &[5, columns])
        .weight("b2", &[columns])
        .integers("classes", &[1])
        .integers("map", &[-1, columns as i64, 1, 1])
        .integers("tokens", &[-1, 1, columns as i64])
        .integers("row", &[-1, columns as i64])
        .integers("parts", &[1, columns as i64 - 1])
        .scalar("zero", 0.0)
        .scalar("tiny", 1e-12)
        .scalar("small", 1e-7)
        .scalar("nearly_one", 0.999_999_9)
        .scalar("half", 0.5)
        .scalar("one", 1.0)
        .scalar("hundred", 100.0)
        .nodes(
            "MatMul x w1 -> product
             Add product b1 -> sum
             Relu sum -> hidden
             MatMul hidden w2 -> scores
             Add scores b2 -> z",
        )
}

/// The model with the nodes `end` after its logits. Two parts after bars are the branches of an `If`.
fn ending(columns: usize, end: &str) -> Model {
    let lines: Vec<&str> = end.split("; ").collect();
    let made = perceptron(columns);
    let [line] = lines.iter().filter(|l| l.starts_with("If")).collect::<Vec<_>>()[..] else {
        return made.nodes(&lines.join("\n")).output("y");
    };
    let (before, after): (Vec<&str>, _) = (
        lines.iter().copied().take_while(|l| l != line).collect(),
        lines.iter().copied().skip_while(|l| l != line).skip(1).collect::<Vec<_>>(),
    );
    let branch = |line: &str| {
        let ty = Type::Tensor(DataType::Float, None);
        let outputs = vec![ValueInfo { name: "chosen".into(), ty }];
        let nodes = vec![node(&format!("{line} -> chosen"))];
        Attribute::Graph(Box::new(Graph { nodes, outputs, ..Graph::default() }))
    };
    let mut words = line.split(" | ");
    let mut choice = node(words.next().unwrap());
    for name in ["then_branch", "else_branch"] {
        choice.attributes.push((name.into(), branch(words.next().unwrap())));
    }
    let mut made = made.nodes(&before.join("\n"));
    made.0.graph.nodes.push(choice);
    made.nodes(&after.join("\n")).output("y")
}

fn imported(model: &Model) -> Imported {
    import(model, &ImportOptions::default()).unwrap()
}

/// Losses and gradients of two samples, by the names of the outputs.
fn gradients(
    imported: &Imported,
    loss: Loss,
    labels: &Tensor,
    engine: &dyn Engine,
) -> Vec<(String, Vec<f64>)> {
    let x = (0..8u8).map(|i| (1.7 * f32::from(i)).cos()).collect();
    let x = Tensor::f32(&[2, 4], x).unwrap();
    let graph = training_graph(&imported.graph, loss, 2, Reduction::PerSample).unwrap().graph;
    let labels = labels.reshape(graph.shape(graph.input(LABELS).unwrap())).unwrap();
    let bytes = emit_bytes(&graph).unwrap();
    let results = engine.load(&Compiled::from_onnx(bytes)).unwrap().run(&[x, labels]).unwrap();
    let named = graph.outputs().iter().zip(results);
    named.map(|(o, t)| (o.name.clone(), t.to_f64().into_iter().collect())).collect()
}

/// The loss of each sample, and the norms of its gradients with respect to w1, b1, w2 and b2.
type Reference = [(f64, [f64; 4]); 2];

/// Computed by PyTorch in float64 from `−log p`, with `p` as `exp(z − max) / Σ`, `1 / (1 + exp(−z))` or
/// `[1 − p, p]`.
const CROSS_ENTROPY: Reference = [
    (0.765_895_658, [0.508_336_125, 0.351_273_437, 0.222_879_94, 0.656_759_867]),
    (1.255_358_497, [0.794_073_142, 0.529_811_772, 0.268_517_237, 0.885_934_638]),
];
const BINARY: Reference = [
    (0.583_736_878, [0.172_637_044, 0.119_296_672, 0.086_697_853, 0.255_472_387]),
    (0.746_084_037, [0.252_009_048, 0.168_142_396, 0.091_956_82, 0.303_398_517]),
];
const TWO_COLUMNS: Reference = [
    (0.674_951_769, [0.446_127_995, 0.308_286_007, 0.166_565_772, 0.490_819_022]),
    (0.591_697_676, [0.389_785_787, 0.260_068_106, 0.135_363_581, 0.446_612_985]),
];

fn check(
    columns: usize,
    ends: &[&str],
    wanted: FinalActivation,
    loss: Loss,
    labels: &Tensor,
    reference: &Reference,
) {
    let engines = all_for_tests();
    for end in ends {
        let imported = imported(&ending(columns, end));
        assert_eq!(imported.final_activation, Some(wanted), "{end}");
        assert_eq!(imported.warnings, Vec::<String>::new(), "{end}");
        for engine in &engines {
            let name = engine.describe().name;
            for (output, got) in gradients(&imported, loss, labels, &**engine) {
                let which = ["grad.w1", "grad.b1", "grad.w2", "grad.b2"];
                let which = which.iter().position(|name| **name == *output);
                for (sample, (loss, norms)) in reference.iter().enumerate() {
                    let each = got.len() / 2;
                    let row = &got[sample * each..(sample + 1) * each];
                    let (got, want) = match which {
                        Some(i) => (row.iter().map(|v| v * v).sum::<f64>().sqrt(), norms[i]),
                        None => (row[0], *loss),
                    };
                    assert!((got - want).abs() < 2e-5, "{end} on {name}: {output} {got} {want}");
                }
            }
        }
    }
}

#[test]
fn softmax_is_recognised_however_it_is_written() {
    let labels = Tensor::index([2, 0]);
    let softmax = [
        "Softmax axis=1 z -> y",
        "Reshape z map -> m; Softmax axis=1 m -> y",
        "Softmax axis=-1 z -> p; Reshape p map -> y",
        "Reshape z map -> m; Softmax axis=1 m -> p; Reshape p row -> y",
        "Reshape z map -> m; Softmax axis=1 m -> p; Transpose perm=0,2,3,1 p -> y",
        // The form of JAX and TensorFlow.
        "ReduceMax axes=1 z -> m; Sub z m -> d; Exp d -> e; ReduceSum e classes -> t; Div e t -> y",
        "Exp z -> e; ReduceSum e classes -> t; Div e t -> y",
        "Exp z -> e; ReduceSum keepdims=0 e classes -> s; Unsqueeze s classes -> t; Div e t -> y",
        "Exp z -> e; ReduceSum e classes -> t; Reciprocal t -> r; Mul r e -> y",
        "Exp z -> e; ReduceSum e classes -> s; Add s tiny -> t; Div e t -> y",
        "Exp z -> e; ReduceSum e classes -> s; Max s tiny -> t; Div e t -> y",
        "Exp z -> e; ReduceSum e classes -> s; Clip s tiny -> t; Div e t -> y",
        "Exp z -> e; ReduceL1 axes=1 e -> s; Max s tiny -> m; Shape e -> n; Expand m n -> t; \
         Div e t -> y",
        "LogSoftmax axis=1 z -> l; Exp l -> y",
        "ReduceLogSumExp axes=1 z -> s; Sub z s -> l; Exp l -> y",
        "Exp z -> e; ReduceSum e classes -> t; Log t -> s; Sub z s -> l; Exp l -> y",
        "ReduceMax axes=1 z -> m; Sub z m -> d; Exp d -> e; ReduceSum e classes -> t; \
         Log t -> s; Sub d s -> l; Exp l -> y",
        "ReduceMax axes=1 z -> m; Sub z m -> d; Exp d -> e; ReduceSum e classes -> t; \
         Log t -> s; Add m s -> a; Sub z a -> l; Exp l -> y",
        "Softmax axis=1 z -> p; Clip p small nearly_one -> y",
        "Softmax axis=1 z -> p; Clip p zero one -> y",
        "Softmax axis=1 z -> p; Max p small -> q; Min nearly_one q -> y",
        "Softmax axis=1 z -> p; Less p small -> c; Where c small p -> y",
        "Softmax axis=1 z -> p; Mul p hundred -> y",
        "Softmax axis=1 z -> p; Div p half -> y",
        "Softmax axis=1 z -> p; Add small p -> y",
        "Softmax axis=1 z -> p; ReduceSum p classes -> t; Div p t -> y",
        "Softmax axis=1 z -> p; Cast to=10 p -> h; Cast to=1 h -> y",
        "Softmax axis=1 z -> p; Identity p -> q; Dropout q -> y",
        "Softmax axis=1 z -> p; Greater x half -> g; Cast to=1 g -> f; ReduceMax keepdims=0 f -> b; \
         Cast to=9 b -> c; If c -> i | Softmax axis=1 z | Identity p; Relu i -> y",
    ];
    let loss = Loss::CrossEntropy;
    check(3, &softmax, FinalActivation::Softmax, loss, &labels, &CROSS_ENTROPY);
    let log_softmax = [
        "LogSoftmax axis=1 z -> y",
        "Softmax axis=1 z -> p; Log p -> y",
        "Softmax axis=1 z -> p; Add p small -> q; Log q -> y",
        "Softmax axis=1 z -> p; Clip p small -> q; Log q -> y",
        "ReduceLogSumExp axes=1 z -> s; Sub z s -> y",
        "Exp z -> e; ReduceSum e classes -> t; Log t -> s; Sub z s -> y",
    ];
    check(3, &log_softmax, FinalActivation::LogSoftmax, loss, &labels, &CROSS_ENTROPY);
}

#[test]
fn sigmoid_is_recognised_however_it_is_written() {
    let labels = Tensor::f32(&[2, 3], vec![0.0, 0.0, 1.0, 1.0, 0.0, 0.0]).unwrap();
    let ends = [
        "Sigmoid z -> y",
        "Sigmoid z -> p; Clip p small nearly_one -> y",
        "Sigmoid z -> p; Max p small -> y",
        "Neg z -> n; Exp n -> e; Add one e -> s; Div one s -> y",
        "Neg z -> n; Exp n -> e; Add e one -> s; Reciprocal s -> y",
        "Exp z -> e; Add e one -> s; Div e s -> y",
        "Neg z -> n; Sigmoid n -> q; Sub one q -> y",
        "Mul z half -> h; Tanh h -> t; Add t one -> s; Mul half s -> y",
        "Mul z half -> h; Tanh h -> t; Mul half t -> s; Add s half -> y",
        "Neg z -> n; Softplus n -> s; Neg s -> l; Exp l -> y",
        "Sigmoid z -> p; Log p -> l; Exp l -> y",
        "Sigmoid z -> p; Reshape p tokens -> y",
        "Sigmoid z -> p; Reshape p map -> y",
        "Split axis=1 z parts -> a b; Sigmoid a -> p; Sigmoid b -> q; Concat axis=1 p q -> y",
        "ReduceMax keepdims=0 x -> m; Greater m half -> c; If c -> y | Sigmoid z | Sigmoid z",
        "Sigmoid z -> p; Log p -> y",
    ];
    let (sigmoid, loss) = (FinalActivation::Sigmoid, Loss::BinaryCrossEntropy);
    check(3, &ends, sigmoid, loss, &labels, &BINARY);
}

#[test]
fn two_columns_of_one_probability_are_two_classes() {
    let (softmax, loss) = (FinalActivation::Softmax, Loss::CrossEntropy);
    let ends = [
        "Sigmoid z -> p; Sub one p -> q; Concat axis=1 q p -> y",
        "Neg z -> n; Sigmoid n -> q; Sigmoid z -> p; Concat axis=-1 q p -> y",
        "Sigmoid z -> p; Clip p small nearly_one -> c; Sub one c -> q; Concat axis=1 q c -> y",
    ];
    check(1, &ends, softmax, loss, &Tensor::index([1, 0]), &TWO_COLUMNS);
    let other_way = ["Sigmoid z -> p; Sub one p -> q; Concat axis=1 p q -> y"];
    check(1, &other_way, softmax, loss, &Tensor::index([0, 1]), &TWO_COLUMNS);
}

/// A log-softmax does not change the cross-entropy, so it need not be recognised.
#[test]
fn a_log_softmax_that_is_kept_changes_no_gradient() {
    let (labels, loss) = (Tensor::index([2, 0]), Loss::CrossEntropy);
    let options = ImportOptions { keep_activation: true, ..ImportOptions::default() };
    let kept = import(&ending(3, "LogSoftmax axis=1 z -> y"), &options).unwrap();
    assert_eq!(kept.final_activation, None);
    let plain = imported(&ending(3, "Identity z -> y"));
    for engine in all_for_tests() {
        let both = [&kept, &plain].map(|model| gradients(model, loss, &labels, &*engine));
        for ((name, a), (_, b)) in both[0].iter().zip(&both[1]) {
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{name}: {a:?} {b:?}");
        }
    }
}

/// Functions that only resemble an activation are kept. If their results are probabilities, there is a
/// warning.
#[test]
fn other_functions_are_left_in() {
    for (end, warned) in [
        ("Identity z -> y", false),
        ("Relu z -> y", false),
        ("Exp z -> y", false),
        ("Tanh z -> y", false),
        ("ReduceSum z classes -> t; Div z t -> y", false),
        ("Softmax axis=1 z -> p; Mul p b2 -> y", false),
        ("Softmax axis=1 z -> p; Neg p -> y", false),
        ("Sigmoid z -> p; Mul p hundred -> y", false),
        ("Exp z -> e; Add e half -> s; Div one s -> y", false),
        ("Exp z -> e; Add e one -> s; Div half s -> y", true),
        ("Softmax axis=1 z -> p; Clip p half -> y", true),
        ("Softmax axis=1 z -> p; Mul p p -> y", true),
        ("Softmax axis=1 z -> p; Sigmoid z -> q; Add p q -> s; Mul s half -> y", true),
        // Over positions.
        (
            "Reshape z map -> m; Concat axis=2 m m -> c; Concat axis=3 c c -> d; \
             Softmax axis=2 d -> y",
            true,
        ),
        // Split and concatenated again: the same function, but not recognised.
        ("Softmax axis=1 z -> p; Split axis=1 p parts -> a b; Concat axis=1 a b -> y", true),
        ("HardSigmoid z -> y", true),
        ("Sigmoid z -> p; ReduceMean axes=1 p -> y", true),
        ("Clip z zero one -> y", true),
    ] {
        let imported = imported(&ending(3, end));
        assert_eq!(imported.final_activation, None, "{end}");
        let said = imported.warnings.iter().any(|w| w.contains("probabilities"));
        assert_eq!(said, warned, "{end}: {:?}", imported.warnings);
    }
}

/// A squared error compares the outputs themselves.
#[test]
fn outputs_that_are_kept_are_not_warned_of() {
    let options = ImportOptions { keep_activation: true, ..ImportOptions::default() };
    for end in ["Softmax axis=1 z -> y", "HardSigmoid z -> y"] {
        let kept = import(&ending(3, end), &options).unwrap();
        assert_eq!((kept.final_activation, kept.warnings), (None, Vec::new()), "{end}");
    }
}

/// The logits of `activation(x) / Σ|activation(x)|`, their softmax, and the output.
fn logits_of(activation: impl Fn(&mut Builder, Value) -> Value) -> [Vec<f64>; 3] {
    let mut b = Builder::default();
    let x = b.input("x", Fact::new(DType::F64, [1, 3]));
    let y = activation(&mut b, x);
    let size = b.unary(Unary::Abs, y).unwrap();
    let sum = b.reduce_sum(size, &[1]).unwrap();
    let y = b.div(y, sum).unwrap();
    let (logits, taken) = split_activation(&mut b, y).unwrap();
    assert_eq!(taken, Some(FinalActivation::Softmax));
    let back = b.push(Softmax { axis: 1, log: false }, &[logits]).unwrap();
    for (name, value) in [("logits", logits), ("back", back), ("y", y)] {
        b.output(name, value);
    }
    let x = Tensor::f64(&[1, 3], vec![0.5, -1.0, 2.0]).unwrap();
    let values = eval(&b.finish(), &[x]).unwrap();
    std::array::from_fn(|i| values[i].to_f64().into_raw_vec_and_offset().0)
}

#[test]
fn normalised_probabilities_have_logits() {
    let softmax = |b: &mut Builder, x| b.push(Softmax { axis: 1, log: false }, &[x]).unwrap();
    let sigmoid = |b: &mut Builder, x| b.sigmoid(x).unwrap();
    let softplus = |b: &mut Builder, x| b.unary(Unary::Softplus, x).unwrap();
    let of_softmax = logits_of(softmax);
    assert_eq!(of_softmax[0], [0.5, -1.0, 2.0]);
    for [_, back, y] in [of_softmax, logits_of(sigmoid), logits_of(softplus)] {
        for (back, y) in back.iter().zip(&y) {
            assert!((back - y).abs() < 1e-12, "{back} {y}");
        }
    }
}
