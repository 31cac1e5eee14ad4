//! Drawing fresh parameters.

use std::fmt;
use std::str::FromStr;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::roles::{Role, roles};
use crate::error::{Error, Result};
use crate::graph::{Builder, Graph, Parameter};
use crate::linalg;
use crate::ops::{Op, Primitive};
use crate::tensor::Tensor;

/// Where the parameters come from.
///
/// A scheme sets kernels and matrices. Unless it is [`Init::Keep`], biases are drawn from
/// `U(−1/√fan_in, 1/√fan_in)` under [`Init::PyTorch`] and are 0 otherwise, the scales of
/// normalisations are 1, their shifts 0, running means and variances are 0 and 1, embeddings are `N(0, 1)`, and free parameters (class
/// tokens, position tables, slopes) stay as they are in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Init {
    /// As stored in the file.
    #[default]
    Keep,
    /// `U(−1/√fan_in, 1/√fan_in)`: PyTorch's default for Conv and Linear.
    PyTorch,
    /// `N(0, 2/fan_in)`.
    KaimingNormal,
    /// `U(−√(6/fan_in), √(6/fan_in))`.
    KaimingUniform,
    /// `N(0, 2/(fan_in + fan_out))`.
    XavierNormal,
    /// `U(−a, a)` with `a = √(6/(fan_in + fan_out))`.
    XavierUniform,
    /// `N(0, 1/fan_in)`.
    LeCunNormal,
    /// Orthonormal rows or columns, of the kernel as a matrix with its first axis as rows.
    Orthogonal,
    /// `N(0, 1)`.
    Normal,
}

impl Init {
    /// All schemes, with the names that options and reports use.
    pub const ALL: [(Init, &'static str); 9] = [
        (Init::Keep, "keep"),
        (Init::PyTorch, "pytorch"),
        (Init::KaimingNormal, "kaiming-normal"),
        (Init::KaimingUniform, "kaiming-uniform"),
        (Init::XavierNormal, "xavier-normal"),
        (Init::XavierUniform, "xavier-uniform"),
        (Init::LeCunNormal, "lecun-normal"),
        (Init::Orthogonal, "orthogonal"),
        (Init::Normal, "normal"),
    ];
}

impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Init::ALL.iter().find(|(init, _)| init == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl FromStr for Init {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Init::ALL.iter().find(|(_, name)| *name == s).map(|(init, _)| *init).ok_or_else(|| {
            let names: Vec<_> = Init::ALL.iter().map(|(_, name)| *name).collect();
            Error::Usage(format!("unknown initialisation '{s}': choose {}", names.join(", ")))
        })
    }
}

/// `graph` with parameters drawn by `init` from a ChaCha8 generator: each parameter from its own
/// stream of `seed`, so that a draw does not depend on the parameters before it.
pub fn initialise(graph: &Graph, init: Init, seed: u64) -> Result<Graph> {
    let mut graph = graph.clone();
    if init == Init::Keep {
        return Ok(graph);
    }
    for (stream, (value, role)) in roles(&graph).into_iter().enumerate() {
        let node = &mut graph.nodes[value.index()];
        let Op::Parameter(Parameter { tensor, .. }) = &mut node.op else { continue };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream as u64);
        let shape = tensor.shape().to_vec();
        let Some(values) = draw(init, role, &shape, &mut rng)? else { continue };
        *tensor = Tensor::f32(&shape, values)?.cast(node.fact.dtype);
    }
    with_fresh_statistics(&graph)
}

/// `graph` with running means of 0 and variances of 1: those stored belong to the old parameters.
fn with_fresh_statistics(graph: &Graph) -> Result<Graph> {
    let mut b = Builder::default();
    let map = b.import(graph, |b, _, node, inputs| {
        let Op::Apply(Primitive::BatchNorm(norm)) = &node.op else { return Ok(None) };
        let fact = b.fact(inputs[3]).clone();
        let mean = b.constant(Tensor::full(fact.dtype, &fact.shape, 0.0));
        let variance = b.constant(Tensor::full(fact.dtype, &fact.shape, 1.0));
        b.push(*norm, &[inputs[0], inputs[1], inputs[2], mean, variance]).map(Some)
    })?;
    b.copy_outputs(graph, &map)?;
    Ok(b.finish().verified())
}

/// The values of one parameter, or `None` to keep them.
fn draw(init: Init, role: Role, shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Option<Vec<f32>>> {
    let len = shape.iter().product();
    Ok(Some(match role {
        Role::Free => return Ok(None),
        Role::Scale => vec![1.0; len],
        Role::Shift => vec![0.0; len],
        Role::Embedding => normal(len, 1.0, rng),
        Role::Bias { fan_in } if init == Init::PyTorch => {
            uniform(len, (fan_in.max(1) as f64).sqrt().recip(), rng)
        }
        Role::Bias { .. } => vec![0.0; len],
        Role::Weight { fan_in, fan_out } => {
            let (fan_in, fan_out) = (fan_in.max(1) as f64, fan_out.max(1) as f64);
            match init {
                Init::PyTorch => uniform(len, fan_in.sqrt().recip(), rng),
                Init::KaimingNormal => normal(len, (2.0 / fan_in).sqrt(), rng),
                Init::KaimingUniform => uniform(len, (6.0 / fan_in).sqrt(), rng),
                Init::XavierNormal => normal(len, (2.0 / (fan_in + fan_out)).sqrt(), rng),
                Init::XavierUniform => uniform(len, (6.0 / (fan_in + fan_out)).sqrt(), rng),
                Init::LeCunNormal => normal(len, fan_in.sqrt().recip(), rng),
                Init::Normal => normal(len, 1.0, rng),
                Init::Orthogonal => orthogonal(shape, rng)?,
                Init::Keep => return Ok(None),
            }
        }
    }))
}

/// `len` numbers from `N(0, deviation²)`.
pub(crate) fn normal(len: usize, deviation: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let draw = |v: f64| (v * deviation) as f32;
    StandardNormal.sample_iter(rng).take(len).map(draw).collect()
}

/// `len` numbers from `U(−bound, bound)`.
pub(crate) fn uniform(len: usize, bound: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    (0..len).map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32).collect()
}

fn orthogonal(shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Vec<f32>> {
    let rows = shape.first().copied().unwrap_or(1);
    let columns = shape.iter().skip(1).product::<usize>();
    let (tall, wide) = (rows.max(columns), rows.min(columns));
    let gaussian: Vec<f64> = StandardNormal.sample_iter(rng).take(tall * wide).collect();
    let gaussian = ndarray::Array2::from_shape_vec((tall, wide), gaussian)
        .map_err(|e| Error::Shape(e.to_string()))?;
    let q = linalg::orthonormal_columns(&gaussian.view())?;
    let q = if rows < columns { q.reversed_axes() } else { q };
    Ok(q.iter().map(|&v| v as f32).collect())
}
