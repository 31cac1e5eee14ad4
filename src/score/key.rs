//! The identity of a result: what a value depends on, and nothing else.

use serde::Serialize;

use super::canonical::digest;
use super::record::Run;
use crate::graph::{Graph, Rectifier, Tag};
use crate::hash::Hash;
use crate::ops::Op;
use crate::probe::Batch;
use crate::transform::Loss;

/// Raised where a value changes, or a record gains one, without a change of gradalign's version.
const REVISION: u32 = 2;

/// What identifies a result: two results with equal keys have equal values, up to the rounding of
/// runs that are cut differently. It is known before anything runs.
///
/// The model counts by the graph and the tensors that it is imported to, not by its file: the names
/// of files, of nodes and of the exporter make no difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// The digest of the graph and its tensors.
    pub graph: String,
    /// The digest of the samples and targets, as they are fitted to the model.
    pub data: String,
    /// The loss.
    pub loss: String,
    /// The digest of the settings.
    pub settings: String,
    /// gradalign's version, which is that of all scores.
    pub tool: String,
    /// What changes values between versions.
    pub revision: u32,
    /// The engine's name, version and device.
    pub engine: [String; 3],
}

impl Key {
    /// The key of `graph` scored on `batch` by `loss` in `run`.
    pub fn new(graph: &Graph, batch: &Batch, loss: Loss, run: &Run) -> Self {
        Key {
            graph: of_graph(graph, run.settings.features.as_deref()),
            data: of_batch(batch),
            loss: loss.to_string(),
            settings: run.settings_digest.clone(),
            tool: run.tool.version.clone(),
            revision: REVISION,
            engine: [&run.engine.name, &run.engine.version, &run.engine.device].map(Clone::clone),
        }
    }

    /// The SHA-256 in hex of the key as JSON with sorted keys and no spaces.
    pub fn digest(&self) -> String {
        digest(self)
    }
}

impl Run {
    /// The SHA-256 in hex of what the records of a run have in common and their values depend on: the
    /// settings, the data by its content, the engine, and gradalign's version. For a given model, equal
    /// digests mean equal results.
    pub fn digest(&self) -> String {
        let (data, engine) = (&self.data, &self.engine);
        let data = (&data.sha256, data.samples, data.classes);
        let engine = [&engine.name, &engine.version, &engine.device];
        digest(&(&self.settings_digest, data, engine, &self.tool.version, REVISION))
    }
}

/// The digest of what `graph` computes: its inputs by name, the operations that its outputs depend on,
/// with their attributes, operands and results, and the bytes of its tensors, trainable ones told from
/// constants. `features` is the name of a node that scores look at, which counts by its place.
fn of_graph(graph: &Graph, features: Option<&str>) -> String {
    let mut hash = Hash::default();
    let mut live = graph.live();
    for input in graph.inputs() {
        live[input.index()] = true;
    }
    // Parameters without a use are counted, and shift the streams that later ones are drawn from.
    for (parameter, _) in graph.parameters() {
        live[parameter.index()] = true;
    }
    // The places of live nodes among themselves.
    let mut places = vec![0; live.len()];
    let mut named = None;
    let nodes = graph.nodes().filter(|(value, _)| live[value.index()]);
    for (place, (value, node)) in nodes.enumerate() {
        places[value.index()] = place;
        match &node.op {
            Op::Input(name) => hash.text(format_args!("input {}:{name}", name.len())),
            Op::Parameter(parameter) => {
                hash.text(format_args!("parameter"));
                hash.tensor(&parameter.tensor);
            }
            Op::Constant(tensor) => {
                hash.text(format_args!("constant"));
                hash.tensor(tensor);
            }
            Op::Apply(primitive) => hash.text(format_args!("{primitive:?}")),
        }
        let inputs = node.inputs.iter().map(|input| places[input.index()]);
        hash.numbers(inputs);
        hash.fact(&node.fact);
        for &Tag::Rectified(Rectifier { input, kind, copies }) in &node.tags {
            hash.text(format_args!("rectified {kind}"));
            hash.numbers([places[input.index()], copies]);
        }
        if features == Some(&*node.scope) {
            named = Some(place);
        }
    }
    hash.numbers(graph.inputs().iter().map(|input| places[input.index()]));
    hash.numbers(graph.outputs().iter().map(|output| places[output.value.index()]));
    hash.numbers(named);
    hash.hex()
}

/// The digest of fitted samples.
fn of_batch(batch: &Batch) -> String {
    let mut hash = Hash::default();
    hash.numbers([batch.inputs.len()]);
    batch.inputs.iter().for_each(|input| hash.tensor(input));
    hash.tensor(&batch.targets);
    hash.text(format_args!("{:?}", batch.classes));
    hash.hex()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::graph::{Builder, Fact};
    use crate::ops::Unary;
    use crate::tensor::{DType, Tensor};

    /// What a small network differs in.
    #[derive(Clone)]
    struct Made<'a> {
        input: &'a str,
        weight: &'a str,
        scope: &'a str,
        value: f32,
        op: Unary,
        trained: bool,
        swapped: bool,
        dead: bool,
        idle: bool,
    }

    const MADE: Made = Made {
        input: "x",
        weight: "w",
        scope: "n",
        value: 1.0,
        op: Unary::Relu,
        trained: true,
        swapped: false,
        dead: false,
        idle: false,
    };

    impl Made<'_> {
        fn graph(&self) -> Graph {
            let mut b = Builder::default();
            let x = b.input(self.input, Fact::new(DType::F32, [1, 2]));
            let w = Tensor::f32(&[2, 2], vec![self.value, 2.0, 3.0, 4.0]).unwrap();
            let w = if self.trained { b.parameter(self.weight, w) } else { b.constant(w) };
            let bias = b.parameter("b", Tensor::f32(&[2], vec![1.0, 2.0]).unwrap());
            if self.idle {
                b.parameter("idle", Tensor::f32(&[1], vec![1.0]).unwrap());
            }
            if self.dead {
                b.push(Unary::Tanh, &[x]).unwrap();
            }
            let y = b.matmul(x, w).unwrap();
            let y = b.push(self.op, &[y]).unwrap();
            let y = if self.swapped { b.sub(bias, y) } else { b.sub(y, bias) }.unwrap();
            b.output("y", y);
            let mut graph = b.finish();
            for node in &mut graph.nodes {
                node.scope = self.scope.into();
            }
            graph
        }
    }

    #[test]
    fn a_graph_counts_by_what_it_computes() {
        let of = |made: Made| of_graph(&made.graph(), None);
        for same in
            [Made { weight: "v", ..MADE }, Made { scope: "m", ..MADE }, Made { dead: true, ..MADE }]
        {
            assert_eq!(of(same), of(MADE));
        }
        for other in [
            Made { input: "z", ..MADE },
            Made { value: 1.5, ..MADE },
            Made { op: Unary::Tanh, ..MADE },
            Made { trained: false, ..MADE },
            Made { swapped: true, ..MADE },
            // It is counted as a parameter, though nothing uses it.
            Made { idle: true, ..MADE },
        ] {
            assert_ne!(of(other), of(MADE));
        }
        // A node that a score looks at by name counts.
        let (named, other) =
            (of_graph(&MADE.graph(), Some("n")), of_graph(&MADE.graph(), Some("m")));
        assert_ne!(named, other);
        assert_eq!(other, of(MADE));
    }

    #[test]
    fn data_counts_by_its_values() {
        let batch = |x: f32, class: i64| Batch {
            inputs: vec![Tensor::f32(&[2, 1], vec![x, 1.0]).unwrap()],
            targets: Tensor::index([0, class]),
            classes: vec![0, class],
        };
        assert_eq!(of_batch(&batch(0.5, 1)), of_batch(&batch(0.5, 1)));
        assert_ne!(of_batch(&batch(0.5, 1)), of_batch(&batch(0.25, 1)));
        assert_ne!(of_batch(&batch(0.5, 1)), of_batch(&batch(0.5, 0)));
    }

    #[test]
    fn the_time_grows_with_the_nodes() {
        let mut b = Builder::default();
        let mut y = b.input("x", Fact::new(DType::F32, [1, 2]));
        for i in 0..100_000 {
            y = b.push(if i % 2 == 0 { Unary::Tanh } else { Unary::Erf }, &[y]).unwrap();
        }
        b.output("y", y);
        let graph = b.finish();
        let start = Instant::now();
        of_graph(&graph, None);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}
