//! What every primitive is put through: finite differences, second order, lanes, engines.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::emit::emit_bytes;
use crate::engine::all_for_tests;
use crate::error::Result;
use crate::graph::{Builder, Fact, Graph, Output, Value, eval, eval_values};
use crate::tensor::{DType, Tensor};
use crate::transform::{grad, vmap};

/// Lanes used to test `vmap`.
const LANES: usize = 3;

/// Step of central differences, in float64.
const STEP: f64 = 1e-5;

/// Relative error allowed to finite differences of values that are good to about 1e-15.
const DIFFERENCE_TOLERANCE: f64 = 2e-6;

/// Error allowed to an engine in float32, relative to the largest element.
const ENGINE_TOLERANCE: f64 = 1e-4;

#[derive(Clone, Copy)]
enum Kind {
    Float { low: f64, high: f64 },
    Integer { low: i64, high: i64 },
    Boolean,
}

/// A function of tensors to be checked.
pub struct Case {
    name: String,
    inputs: Vec<(Kind, Vec<usize>)>,
    second_order: bool,
}

impl Case {
    /// A case without inputs yet. The name seeds the values drawn.
    pub fn new(name: impl Into<String>) -> Self {
        Case { name: name.into(), inputs: Vec::new(), second_order: true }
    }

    /// Adds a float input, uniform in `[low, high)`.
    pub fn input(mut self, shape: &[usize], low: f64, high: f64) -> Self {
        self.inputs.push((Kind::Float { low, high }, shape.to_vec()));
        self
    }

    /// Adds an int64 input, uniform in `low..high`.
    pub fn ints(mut self, shape: &[usize], low: i64, high: i64) -> Self {
        self.inputs.push((Kind::Integer { low, high }, shape.to_vec()));
        self
    }

    /// Adds a boolean input.
    pub fn bools(mut self, shape: &[usize]) -> Self {
        self.inputs.push((Kind::Boolean, shape.to_vec()));
        self
    }

    /// Leaves the second derivative out.
    pub fn first_order_only(mut self) -> Self {
        self.second_order = false;
        self
    }

    /// Checks values and both derivatives against finite differences, `vmap` against a loop, and
    /// every engine against the interpreter.
    pub fn check(&self, f: impl Fn(&mut Builder, &[Value]) -> Result<Value>) {
        self.run(&f, true);
    }

    /// Checks everything but finite differences.
    pub fn check_forward(&self, f: impl Fn(&mut Builder, &[Value]) -> Result<Value>) {
        self.run(&f, false);
    }

    fn run(&self, f: &dyn Fn(&mut Builder, &[Value]) -> Result<Value>, differences: bool) {
        let mut rng = self.rng();
        let point = self.draw(DType::F64, &mut rng);
        let exact = self.graph(DType::F64, f);
        let value = eval(&exact, &point).unwrap_or_else(|e| self.fail("forward", &e.to_string()));
        self.expect("forward is finite", is_finite(&value[0]), || format!("{:?}", value[0]));
        if value[0].dtype().is_float() && !self.floats().is_empty() {
            let first = self.gradient(&exact, &mut rng);
            if differences {
                self.check_differences("gradient", &first, &point, &mut rng);
                if self.second_order && first.outputs().len() > 1 {
                    let second = self.gradient(&first, &mut rng);
                    self.check_differences("second order", &second, &point, &mut rng);
                    self.check_lanes("vmap of second order", &second, &mut rng);
                }
            }
            self.check_lanes("vmap of gradient", &first, &mut rng);
            self.check_gradient_of_lanes(&exact, &mut rng);
            self.check_engines("gradient", &first, &mut rng);
        }
        self.check_lanes("vmap", &exact, &mut rng);
        self.check_engines("forward", &exact, &mut rng);
    }

    fn rng(&self) -> ChaCha8Rng {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        ChaCha8Rng::seed_from_u64(hasher.finish())
    }

    fn floats(&self) -> Vec<usize> {
        let is_float = |i: &usize| matches!(self.inputs[*i].0, Kind::Float { .. });
        (0..self.inputs.len()).filter(is_float).collect()
    }

    fn draw(&self, float: DType, rng: &mut ChaCha8Rng) -> Vec<Tensor> {
        self.inputs.iter().map(|(kind, shape)| draw(*kind, shape, float, rng)).collect()
    }

    fn graph(&self, float: DType, f: &dyn Fn(&mut Builder, &[Value]) -> Result<Value>) -> Graph {
        let mut b = Builder::default();
        let mut inputs = Vec::new();
        for (i, (kind, shape)) in self.inputs.iter().enumerate() {
            let dtype = match kind {
                Kind::Float { .. } => float,
                Kind::Integer { .. } => DType::I64,
                Kind::Boolean => DType::Bool,
            };
            inputs.push(b.input(format!("x{i}"), Fact::new(dtype, shape.clone())));
        }
        let y = f(&mut b, &inputs).unwrap_or_else(|e| self.fail("building", &e.to_string()));
        b.output("y", y);
        b.finish()
    }

    /// Appends the gradient of `Σ r∘y` with respect to every float input, `r` drawn.
    fn gradient(&self, graph: &Graph, rng: &mut ChaCha8Rng) -> Graph {
        let scalar = contracted(graph, rng);
        self.gradient_of_scalar(&scalar)
    }

    fn gradient_of_scalar(&self, graph: &Graph) -> Graph {
        let y = graph.outputs()[0].value;
        let wrt: Vec<Value> = self.floats().into_iter().map(|i| graph.inputs()[i]).collect();
        let (graph, cotangents) =
            grad(graph, y, &wrt).unwrap_or_else(|e| self.fail("grad", &e.to_string()));
        let mut b = Builder::new(graph);
        let mut outputs = vec![Output { name: "y".into(), value: y }];
        for (i, (input, cotangent)) in wrt.iter().zip(cotangents).enumerate() {
            let fact = b.fact(*input).clone();
            let value = cotangent.unwrap_or_else(|| b.zeros(&fact).unwrap());
            outputs.push(Output { name: format!("d{i}"), value });
        }
        b.finish().with_outputs(outputs)
    }

    /// Compares `⟨gradient, v⟩` with the central difference of the scalar along `v`.
    ///
    /// `gradient`'s first output is the scalar itself.
    fn check_differences(
        &self,
        stage: &str,
        gradient: &Graph,
        point: &[Tensor],
        rng: &mut ChaCha8Rng,
    ) {
        let outputs = eval(gradient, point).unwrap_or_else(|e| self.fail(stage, &e.to_string()));
        let y = gradient.outputs()[0].value;
        for _ in 0..3 {
            let mut slope = 0.0;
            let (mut forward, mut backward) = (point.to_vec(), point.to_vec());
            let mut size = 1e-3;
            for (d, &i) in outputs[1..].iter().zip(&self.floats()) {
                let direction =
                    draw(Kind::Float { low: -1.0, high: 1.0 }, d.shape(), DType::F64, rng);
                let (v, d) = (direction.to_f64(), d.to_f64());
                slope += (&d * &v).sum();
                size += (&d * &v).mapv(f64::abs).sum();
                forward[i] = (point[i].to_f64() + &v * STEP).into();
                backward[i] = (point[i].to_f64() - &v * STEP).into();
            }
            let at = |x: &[Tensor]| eval_values(gradient, x, &[y]).unwrap()[0].scalar().unwrap();
            let difference = (at(&forward) - at(&backward)) / (2.0 * STEP);
            self.expect(stage, (slope - difference).abs() < DIFFERENCE_TOLERANCE * size, || {
                format!("slope {slope}, finite difference {difference}")
            });
        }
    }

    /// `vmap` equals a loop, for every choice of batched inputs.
    fn check_lanes(&self, stage: &str, graph: &Graph, rng: &mut ChaCha8Rng) {
        let count = graph.inputs().len();
        for choice in 1u32..1 << count {
            let chosen: Vec<usize> = (0..count).filter(|i| choice >> i & 1 == 1).collect();
            let values: Vec<Value> = chosen.iter().map(|&i| graph.inputs()[i]).collect();
            let batched = vmap(graph, LANES, &values)
                .unwrap_or_else(|e| self.fail(stage, &format!("{chosen:?}: {e}")));
            let lanes: Vec<Vec<Tensor>> = (0..LANES).map(|_| self.draw(DType::F64, rng)).collect();
            let stacked: Vec<Tensor> = (0..count)
                .map(|i| match chosen.contains(&i) {
                    true => stack(lanes.iter().map(|lane| &lane[i])),
                    false => lanes[0][i].clone(),
                })
                .collect();
            let together = eval(&batched, &stacked)
                .unwrap_or_else(|e| self.fail(stage, &format!("{chosen:?}: {e}")));
            let alone: Vec<Vec<Tensor>> = lanes
                .iter()
                .map(|lane| {
                    let pick = |i| if chosen.contains(&i) { &lane[i] } else { &lanes[0][i] };
                    let inputs: Vec<Tensor> = (0..count).map(|i| pick(i).clone()).collect();
                    eval(graph, &inputs).unwrap()
                })
                .collect();
            for (o, got) in together.iter().enumerate() {
                let expected = stack(alone.iter().map(|outputs| &outputs[o]));
                self.compare(&format!("{stage} over {chosen:?}"), got, &expected, 1e-9);
            }
        }
    }

    /// The gradient of `Σ_lanes f` with all inputs batched is the per-lane gradients; with one
    /// input shared, it is their sum.
    fn check_gradient_of_lanes(&self, graph: &Graph, rng: &mut ChaCha8Rng) {
        let scalar = contracted(graph, rng);
        let gradient = self.gradient_of_scalar(&scalar);
        let inputs = graph.inputs().to_vec();
        for shared in 0..=inputs.len() {
            let batched: Vec<Value> =
                (0..inputs.len()).filter(|&i| i != shared).map(|i| scalar.inputs()[i]).collect();
            if batched.is_empty() {
                continue;
            }
            let per_lane = vmap(&scalar, LANES, &batched).unwrap();
            let mut b = Builder::new(per_lane.clone());
            let total = b.sum_all(per_lane.outputs()[0].value).unwrap();
            let summed = b.finish().with_outputs(vec![Output { name: "y".into(), value: total }]);
            let of_lanes = self.gradient_of_scalar(&summed);

            let lanes: Vec<Vec<Tensor>> = (0..LANES).map(|_| self.draw(DType::F64, rng)).collect();
            let arguments: Vec<Tensor> = (0..inputs.len())
                .map(|i| match i == shared {
                    true => lanes[0][i].clone(),
                    false => stack(lanes.iter().map(|lane| &lane[i])),
                })
                .collect();
            let got = eval(&of_lanes, &arguments)
                .unwrap_or_else(|e| self.fail("grad of vmap", &e.to_string()));
            let alone: Vec<Vec<Tensor>> = lanes
                .iter()
                .map(|lane| {
                    let mut lane = lane.clone();
                    if shared < inputs.len() {
                        lane[shared] = lanes[0][shared].clone();
                    }
                    eval(&gradient, &lane).unwrap()
                })
                .collect();
            for (o, &i) in self.floats().iter().enumerate() {
                let each = alone.iter().map(|outputs| &outputs[o + 1]);
                let expected = match i == shared {
                    false => stack(each),
                    true => {
                        let zero = each.clone().next().unwrap().to_f64() * 0.0;
                        Tensor::from(each.fold(zero, |sum, d| sum + d.to_f64()))
                    }
                };
                let stage = format!("grad of vmap, input {i}, {shared} shared");
                self.compare(&stage, &got[o + 1], &expected, 1e-9);
            }
        }
    }

    /// The float32 form of `graph`, alone and under `vmap`, on every engine.
    fn check_engines(&self, stage: &str, graph: &Graph, rng: &mut ChaCha8Rng) {
        let single = to_f32(graph);
        let lanes = vmap(&single, LANES, &single.inputs().to_vec()).unwrap();
        for (form, graph) in [("", &single), (" under vmap", &lanes)] {
            let inputs: Vec<Tensor> = graph
                .inputs()
                .iter()
                .zip(&self.inputs)
                .map(|(&input, (kind, _))| draw(*kind, graph.shape(input), DType::F32, rng))
                .collect();
            let expected = eval(graph, &inputs).unwrap();
            let model = emit_bytes(graph).unwrap_or_else(|e| self.fail("emission", &e.to_string()));
            for engine in all_for_tests() {
                let stage = format!("{stage}{form} on {}", engine.describe().name);
                let outputs = engine
                    .load(&model)
                    .and_then(|mut session| session.run(&inputs))
                    .unwrap_or_else(|e| self.fail(&stage, &e.to_string()));
                for (got, expected) in outputs.iter().zip(&expected) {
                    self.compare(&stage, got, expected, ENGINE_TOLERANCE);
                }
            }
        }
    }

    fn compare(&self, stage: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
        self.expect(stage, got.shape() == expected.shape(), || {
            format!("shape {:?}, expected {:?}", got.shape(), expected.shape())
        });
        self.expect(stage, got.dtype() == expected.dtype(), || {
            format!("dtype {}, expected {}", got.dtype(), expected.dtype())
        });
        let (a, b) = (got.to_f64(), expected.to_f64());
        let scale = b.iter().fold(1e-6, |m: f64, v| m.max(v.abs()));
        let error = a.iter().zip(&b).fold(0.0, |m: f64, (x, y)| match (x - y).abs() {
            e if e.is_nan() => f64::INFINITY,
            e => m.max(e),
        });
        self.expect(stage, error <= tolerance * scale, || {
            format!("error {error:e} of {scale:e}:\n got {a:?}\n expected {b:?}")
        });
    }

    #[track_caller]
    fn expect(&self, stage: &str, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.fail(stage, &message());
        }
    }

    #[track_caller]
    fn fail(&self, stage: &str, message: &str) -> ! {
        panic!("{}: {stage}: {message}", self.name)
    }
}

/// The scalar `Σ r∘o` over all float outputs `o`, with `r` drawn.
fn contracted(graph: &Graph, rng: &mut ChaCha8Rng) -> Graph {
    let mut b = Builder::new(graph.clone());
    let mut total = None;
    for output in graph.outputs() {
        let fact = graph.fact(output.value);
        if !fact.dtype.is_float() {
            continue;
        }
        let kind = Kind::Float { low: 0.5, high: 1.5 };
        let weights = b.constant(draw(kind, &fact.shape, fact.dtype, rng));
        let weighted = b.mul(output.value, weights).unwrap();
        let sum = b.sum_all(weighted).unwrap();
        total = Some(match total {
            Some(total) => b.add(total, sum).unwrap(),
            None => sum,
        });
    }
    let value = total.expect("a float output");
    b.finish().with_outputs(vec![Output { name: "y".into(), value }])
}

/// The graph with float32 in place of float64.
fn to_f32(graph: &Graph) -> Graph {
    use crate::ops::{Cast, Op, Primitive};
    let mut b = Builder::default();
    let map = b
        .import(graph, |b, _, node, inputs| {
            Ok(match &node.op {
                Op::Input(name) if node.fact.dtype == DType::F64 => {
                    Some(b.input(name.clone(), Fact::new(DType::F32, node.fact.shape.clone())))
                }
                Op::Constant(tensor) if tensor.dtype() == DType::F64 => {
                    Some(b.constant(tensor.cast(DType::F32)))
                }
                Op::Apply(Primitive::Cast(Cast { to: DType::F64 })) => {
                    Some(b.cast(inputs[0], DType::F32)?)
                }
                _ => None,
            })
        })
        .unwrap();
    b.copy_outputs(graph, &map).unwrap();
    b.finish()
}

fn draw(kind: Kind, shape: &[usize], float: DType, rng: &mut ChaCha8Rng) -> Tensor {
    let len = shape.iter().product();
    match kind {
        Kind::Float { low, high } => {
            let values = (0..len).map(|_| low + (high - low) * rng.random::<f64>()).collect();
            Tensor::f64(shape, values).unwrap().cast(float)
        }
        Kind::Integer { low, high } => {
            Tensor::i64(shape, (0..len).map(|_| rng.random_range(low..high)).collect()).unwrap()
        }
        Kind::Boolean => Tensor::bool(shape, (0..len).map(|_| rng.random()).collect()).unwrap(),
    }
}

fn stack<'a>(lanes: impl Iterator<Item = &'a Tensor>) -> Tensor {
    let lanes: Vec<&Tensor> = lanes.collect();
    let dtype = lanes[0].dtype();
    let arrays: Vec<_> = lanes.iter().map(|t| t.to_f64()).collect();
    let views: Vec<_> = arrays.iter().map(|a| a.view()).collect();
    Tensor::from_f64(ndarray::stack(ndarray::Axis(0), &views).unwrap(), dtype)
}

fn is_finite(tensor: &Tensor) -> bool {
    tensor.to_f64().iter().all(|v| v.is_finite())
}
