//! What every primitive is put through: derivatives against finite differences, `vmap` against a
//! loop, and every engine against the reference interpreter.

use std::sync::OnceLock;

use ndarray::{ArrayD, Axis, IxDyn};
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::engine::{Compiled, Description, Engine, all_for_tests};
use crate::error::Result;
use crate::graph::{Builder, Fact, Graph, Output, Value, eval};
use crate::tensor::{DType, Tensor};
use crate::transform::{grad, vmap};

/// The number of lanes that `vmap` is tried with.
const LANES: usize = 3;

/// Half the distance of a central difference. In float64, its square (truncation) and the
/// rounding error over it are both far below [`SLOPE_TOLERANCE`].
const STEP: f64 = 1e-5;

/// Relative tolerance of a derivative against a central difference.
const SLOPE_TOLERANCE: f64 = 1e-6;

/// Relative tolerance of two ways to the same float64 result.
const EXACT_TOLERANCE: f64 = 1e-10;

/// Relative tolerance of an engine's float32 result.
const ENGINE_TOLERANCE: f64 = 1e-4;

/// A function of tensors, and what its operands are drawn from.
pub(crate) struct Case {
    name: String,
    operands: Vec<Operand>,
}

struct Operand {
    shape: Vec<usize>,
    values: Values,
}

#[derive(Clone, Copy)]
enum Values {
    Uniform(f64, f64),
    Distinct,
    Ints(i64, i64),
    Bools,
}

impl Case {
    /// A case without operands. The name seeds the draws and stands in every message.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Case { name: name.into(), operands: Vec::new() }
    }

    fn operand(mut self, shape: &[usize], values: Values) -> Self {
        self.operands.push(Operand { shape: shape.to_vec(), values });
        self
    }

    /// A float operand, uniform in `low..high`.
    pub(crate) fn input(self, shape: &[usize], low: f64, high: f64) -> Self {
        self.operand(shape, Values::Uniform(low, high))
    }

    /// A float operand between −1 and 1 without two values close to each other.
    pub(crate) fn distinct(self, shape: &[usize]) -> Self {
        self.operand(shape, Values::Distinct)
    }

    /// An int64 operand, uniform in `low..high`.
    pub(crate) fn ints(self, shape: &[usize], low: i64, high: i64) -> Self {
        self.operand(shape, Values::Ints(low, high))
    }

    /// A boolean operand.
    pub(crate) fn bools(self, shape: &[usize]) -> Self {
        self.operand(shape, Values::Bools)
    }

    /// Checks the function's value, first and second derivative, each alone, under `vmap` and on
    /// every engine.
    pub(crate) fn check(self, f: impl Fn(&mut Builder, &[Value]) -> Result<Value>) {
        let y = self.graph(DType::F64, &f);
        let mut rng = self.rng();
        let at: Vec<Tensor> = self.draw(DType::F64, &mut rng);
        self.forward(&y, &at, &mut rng);

        let dy = self.pullback("gradient", &y);
        self.slope("gradient", &y, &dy, &at, &mut rng);
        self.lanes("vmap(gradient)", &dy, &every_subset(dy.inputs()), &mut rng);
        self.gradient_of_lanes(&y, &dy, &mut rng);
        let ddy = self.pullback("second derivative", &dy);
        let at = draw_inputs(&dy, &self.operands, &mut rng);
        self.slope("second derivative", &dy, &ddy, &at, &mut rng);
        self.lanes("vmap(second derivative)", &ddy, &[ddy.inputs().to_vec()], &mut rng);

        let y = self.graph(DType::F32, &f);
        let dy = self.pullback("float32 gradient", &y);
        let both = dy.with_outputs([y.outputs(), dy.outputs()].concat());
        self.engines("value and gradient", &both, &mut rng);
        // One operand batched at a time, as its rule may take another way; and all of them.
        let cotangent = *both.inputs().last().unwrap();
        let mut subsets: Vec<Vec<Value>> = y.inputs().iter().map(|&v| vec![v, cotangent]).collect();
        if subsets.len() != 1 {
            subsets.push(both.inputs().to_vec());
        }
        for batched in subsets {
            let stage = format!("vmap(value and gradient) over {:?}", names(&both, &batched));
            let lanes = self.must(&stage, vmap(&both, LANES, &batched).map(|d| d.graph));
            self.engines(&stage, &lanes, &mut rng);
        }
        let ddy = self.pullback("float32 second derivative", &dy);
        self.engines("second derivative", &ddy, &mut rng);
        let stage = "vmap(second derivative)";
        let lanes = self.must(stage, vmap(&ddy, LANES, ddy.inputs()).map(|d| d.graph));
        self.engines(stage, &lanes, &mut rng);
    }

    /// Checks the function's value, alone, under `vmap` and on every engine.
    pub(crate) fn check_forward(self, f: impl Fn(&mut Builder, &[Value]) -> Result<Value>) {
        let y = self.graph(DType::F64, &f);
        let mut rng = self.rng();
        let at: Vec<Tensor> = self.draw(DType::F64, &mut rng);
        self.forward(&y, &at, &mut rng);
        let y = self.graph(DType::F32, &f);
        self.engines("value", &y, &mut rng);
        for batched in every_subset(y.inputs()) {
            let stage = format!("vmap(value) over {:?}", names(&y, &batched));
            let lanes = self.must(&stage, vmap(&y, LANES, &batched).map(|d| d.graph));
            self.engines(&stage, &lanes, &mut rng);
        }
    }

    /// The value is finite, and under `vmap` it is that of each lane.
    fn forward(&self, y: &Graph, at: &[Tensor], rng: &mut ChaCha8Rng) {
        for value in self.eval("value", y, at) {
            let finite = value.to_f64().iter().all(|v| v.is_finite());
            assert!(finite, "{}: value: not finite: {value:?}", self.name);
        }
        self.lanes("vmap(value)", y, &every_subset(y.inputs()), rng);
    }

    /// `⟨dy(r), v⟩` is the slope of `⟨r, y⟩` along `v`, in random directions and for random `r`.
    fn slope(&self, stage: &str, y: &Graph, dy: &Graph, at: &[Tensor], rng: &mut ChaCha8Rng) {
        let floats: Vec<usize> = (0..at.len()).filter(|&i| at[i].dtype().is_float()).collect();
        for _ in 0..2 {
            let r: Vec<Tensor> = y.outputs().iter().map(|o| normal(y.fact(o.value), rng)).collect();
            let v: Vec<Tensor> = floats.iter().map(|&i| normal(&Fact::of(&at[i]), rng)).collect();
            let along = |t: f64| {
                let mut moved = at.to_vec();
                for (&i, v) in floats.iter().zip(&v) {
                    let value = at[i].to_f64() + v.to_f64() * t;
                    moved[i] = Tensor::from_f64(value, DType::F64);
                }
                self.eval(stage, y, &moved).iter().zip(&r).map(|(y, r)| dot(y, r)).sum::<f64>()
            };
            let difference = (along(STEP) - along(-STEP)) / (2.0 * STEP);
            let d = self.eval(stage, dy, &[at, &r].concat());
            let terms: Vec<f64> = d.iter().zip(&v).map(|(d, v)| dot(d, v)).collect();
            let derivative: f64 = terms.iter().sum();
            let size: f64 = d.iter().zip(&v).map(|(d, v)| magnitude(d, v)).sum();
            assert!(
                (difference - derivative).abs() <= SLOPE_TOLERANCE * (size + 0.01),
                "{}: {stage}: central difference {difference}, derivative {derivative} \
                 (by operand: {terms:?})",
                self.name
            );
        }
    }

    /// `vmap(graph)` over each of `subsets` is a loop of `graph`.
    fn lanes(&self, stage: &str, graph: &Graph, subsets: &[Vec<Value>], rng: &mut ChaCha8Rng) {
        for batched in subsets {
            let stage = format!("{stage} over {:?}", names(graph, batched));
            let vectorised = self.must(&stage, vmap(graph, LANES, batched).map(|d| d.graph));
            let (stacked, each) = self.draw_lanes(graph, batched, rng);
            let got = self.eval(&stage, &vectorised, &stacked);
            let each: Vec<Vec<Tensor>> =
                each.iter().map(|lane| self.eval(&stage, graph, lane)).collect();
            for (i, got) in got.iter().enumerate() {
                let want = stack(each.iter().map(|lane| &lane[i]));
                self.close(&stage, got, &want, EXACT_TOLERANCE);
            }
        }
    }

    /// The gradient of `vmap(y)` has the lanes' gradients stacked where an operand is batched, and
    /// summed where it is not.
    fn gradient_of_lanes(&self, y: &Graph, dy: &Graph, rng: &mut ChaCha8Rng) {
        for batched in every_subset(y.inputs()) {
            let stage = format!("gradient of vmap over {:?}", names(y, &batched));
            let vectorised = self.must(&stage, vmap(y, LANES, &batched).map(|d| d.graph));
            let gradient = self.pullback(&stage, &vectorised);
            let with_cotangent = [batched.as_slice(), &dy.inputs()[y.inputs().len()..]].concat();
            let (stacked, each) = self.draw_lanes(dy, &with_cotangent, rng);
            let got = self.eval(&stage, &gradient, &stacked);
            let each: Vec<Vec<Tensor>> =
                each.iter().map(|lane| self.eval(&stage, dy, lane)).collect();
            let floats = y.inputs().iter().filter(|&&v| y.fact(v).dtype.is_float());
            for ((i, got), v) in got.iter().enumerate().zip(floats) {
                let mut want = stack(each.iter().map(|lane| &lane[i]));
                if !batched.contains(v) {
                    want = Tensor::from_f64(want.to_f64().sum_axis(Axis(0)), DType::F64);
                }
                self.close(&stage, got, &want, EXACT_TOLERANCE);
            }
        }
    }

    /// Every engine gives what the interpreter gives.
    fn engines(&self, stage: &str, graph: &Graph, rng: &mut ChaCha8Rng) {
        static ENGINES: OnceLock<Vec<Box<dyn Engine>>> = OnceLock::new();
        let inputs = draw_inputs(graph, &self.operands, rng);
        let want = self.eval(stage, graph, &inputs);
        for engine in ENGINES.get_or_init(all_for_tests) {
            let (standard, own) = (Compiled::standard(graph), engine.compile(graph));
            for (form, compiled) in [("standard form", standard), ("its own form", own)] {
                let Description { name, device, .. } = engine.describe();
                let stage = format!("{stage} on {name}, {device}, {form}");
                let compiled = self.must(&stage, compiled);
                let mut session = self.must(&stage, engine.load(&compiled));
                let got = self.must(&stage, session.run(&inputs));
                assert_eq!(got.len(), want.len(), "{}: {stage}", self.name);
                for (got, want) in got.iter().zip(&want) {
                    self.close(&stage, got, want, ENGINE_TOLERANCE);
                }
            }
        }
    }

    fn graph(&self, dtype: DType, f: impl Fn(&mut Builder, &[Value]) -> Result<Value>) -> Graph {
        let mut b = Builder::default();
        let inputs: Vec<Value> = (self.operands.iter().enumerate())
            .map(|(i, o)| b.input(format!("x{i}"), Fact::new(o.dtype(dtype), o.shape.clone())))
            .collect();
        let y = self.must("building", f(&mut b, &inputs));
        b.output("y", y);
        b.finish()
    }

    /// The graph that takes, after the inputs of `graph`, a cotangent for each of its outputs, and
    /// gives the cotangents of its floating-point inputs.
    fn pullback(&self, stage: &str, graph: &Graph) -> Graph {
        let floats: Vec<Value> =
            graph.inputs().iter().copied().filter(|&v| graph.fact(v).dtype.is_float()).collect();
        let pulled = || {
            let mut b = Builder::new(graph.clone());
            let mut sum = None;
            for output in graph.outputs() {
                let fact = b.fact(output.value).clone();
                let r = b.input(format!("r_{}", output.name), fact);
                let product = b.mul(output.value, r)?;
                let term = b.sum_all(product)?;
                sum = Some(match sum {
                    Some(sum) => b.add(sum, term)?,
                    None => term,
                });
            }
            let (graph, cotangents) = grad(&b.finish(), sum.unwrap(), &floats)?;
            let mut b = Builder::new(graph.clone());
            let mut outputs = Vec::new();
            for (&v, cotangent) in floats.iter().zip(cotangents) {
                let value = match cotangent {
                    Some(value) => value,
                    None => b.zeros(graph.fact(v))?,
                };
                let name = format!("d_{}", graph.name(v).unwrap_or_default());
                outputs.push(Output { name, value });
            }
            Ok(b.finish().with_outputs(outputs))
        };
        self.must(stage, pulled())
    }

    /// Operands for each lane, and the same with those in `batched` stacked.
    fn draw_lanes(
        &self,
        graph: &Graph,
        batched: &[Value],
        rng: &mut ChaCha8Rng,
    ) -> (Vec<Tensor>, Vec<Vec<Tensor>>) {
        let mut each: Vec<Vec<Tensor>> =
            (0..LANES).map(|_| draw_inputs(graph, &self.operands, rng)).collect();
        let mut stacked = each[0].clone();
        for (i, v) in graph.inputs().iter().enumerate() {
            if batched.contains(v) {
                stacked[i] = stack(each.iter().map(|lane| &lane[i]));
            } else {
                for lane in &mut each {
                    lane[i] = stacked[i].clone();
                }
            }
        }
        (stacked, each)
    }

    fn draw(&self, dtype: DType, rng: &mut ChaCha8Rng) -> Vec<Tensor> {
        let draw = |o: &Operand| o.draw(&Fact::new(o.dtype(dtype), o.shape.clone()), rng);
        self.operands.iter().map(draw).collect()
    }

    /// A generator seeded by the case's name (by its FNV-1a hash).
    fn rng(&self) -> ChaCha8Rng {
        let hash = self.name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        ChaCha8Rng::seed_from_u64(hash)
    }

    fn eval(&self, stage: &str, graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor> {
        self.must(stage, eval(graph, inputs))
    }

    #[track_caller]
    fn must<T>(&self, stage: &str, result: Result<T>) -> T {
        result.unwrap_or_else(|e| panic!("{}: {stage}: {e}", self.name))
    }

    #[track_caller]
    fn close(&self, stage: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
        assert_eq!(Fact::of(got), Fact::of(want), "{}: {stage}: dtype and shape", self.name);
        let tolerance = if got.dtype().is_float() { tolerance } else { 0.0 };
        let scale = want.to_f64().iter().fold(0.1, |m: f64, v| m.max(v.abs()));
        let off = (got.to_f64() - want.to_f64()).iter().fold(0.0, |m: f64, v| {
            // A NaN is as far off as can be.
            if v.is_nan() { f64::INFINITY } else { m.max(v.abs()) }
        });
        assert!(
            off <= tolerance * scale,
            "{}: {stage}: off by {off} of {scale}\n  got {got:?}\n want {want:?}",
            self.name
        );
    }
}

impl Operand {
    fn dtype(&self, float: DType) -> DType {
        match self.values {
            Values::Uniform(..) | Values::Distinct => float,
            Values::Ints(..) => DType::I64,
            Values::Bools => DType::Bool,
        }
    }

    /// A tensor of `fact`, which may have a lane axis before the operand's own.
    fn draw(&self, fact: &Fact, rng: &mut ChaCha8Rng) -> Tensor {
        let n = fact.len();
        let values: Vec<f64> = match self.values {
            Values::Uniform(low, high) => (0..n).map(|_| rng.random_range(low..high)).collect(),
            Values::Distinct => {
                let mut grid: Vec<f64> =
                    (0..n).map(|i| (2 * i + 1) as f64 / n as f64 - 1.0).collect();
                grid.shuffle(rng);
                grid
            }
            Values::Ints(low, high) => (0..n).map(|_| rng.random_range(low..high) as f64).collect(),
            Values::Bools => (0..n).map(|_| f64::from(u8::from(rng.random_bool(0.5)))).collect(),
        };
        tensor(fact, values)
    }
}

/// Values for the inputs of `graph`: the operands come first, then cotangents.
fn draw_inputs(graph: &Graph, operands: &[Operand], rng: &mut ChaCha8Rng) -> Vec<Tensor> {
    let inputs = graph.inputs().iter().enumerate();
    inputs
        .map(|(i, &v)| match operands.get(i) {
            Some(operand) => operand.draw(graph.fact(v), rng),
            None => normal(graph.fact(v), rng),
        })
        .collect()
}

/// Values between −1 and 1 that are not small.
fn normal(fact: &Fact, rng: &mut ChaCha8Rng) -> Tensor {
    let mut draw = || rng.random_range(0.2..1.0) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
    tensor(fact, (0..fact.len()).map(|_| draw()).collect())
}

fn tensor(fact: &Fact, values: Vec<f64>) -> Tensor {
    Tensor::from_f64(ArrayD::from_shape_vec(IxDyn(&fact.shape), values).unwrap(), fact.dtype)
}

fn stack<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Tensor {
    let tensors: Vec<&Tensor> = tensors.collect();
    let arrays: Vec<ArrayD<f64>> = tensors.iter().map(|t| t.to_f64()).collect();
    let views: Vec<_> = arrays.iter().map(|a| a.view()).collect();
    Tensor::from_f64(ndarray::stack(Axis(0), &views).unwrap(), tensors[0].dtype())
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_f64() * b.to_f64()).sum()
}

fn magnitude(a: &Tensor, b: &Tensor) -> f64 {
    (a.to_f64() * b.to_f64()).iter().map(|v| v.abs()).sum()
}

fn every_subset(values: &[Value]) -> Vec<Vec<Value>> {
    let pick =
        |mask: usize| (0..values.len()).filter(|i| mask >> i & 1 == 1).map(|i| values[i]).collect();
    (1..1 << values.len()).map(pick).collect()
}

fn names<'a>(graph: &'a Graph, values: &[Value]) -> Vec<&'a str> {
    values.iter().filter_map(|&v| graph.name(v)).collect()
}
