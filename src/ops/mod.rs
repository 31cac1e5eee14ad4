//! The primitive operations, one family a file: shape rule, gradient rule, batching rule, meaning
//! and emission stand side by side, with their tests below.
//!
//! Rules are written with a [`Builder`] and write themselves to a [`Writer`]; they know no engine. What
//! an engine computes in another way is its own business.
//!
//! The set is small and closed: every gradient and batching rule is written in terms of the same
//! primitives, so both transformations can be applied again to their own results. Everything else
//! that ONNX knows is lowered to these at import.

mod arithmetic;
mod binary;
mod conv;
mod cumsum;
mod gather;
mod matmul;
mod norm;
mod pool;
mod properties;
mod range;
mod reduce;
mod select;
mod shape;
mod sign_gram;
mod slice;
mod softmax;
#[cfg(test)]
pub(crate) mod tails;
mod topk;
mod unary;
mod writer;
#[cfg(test)]
mod zeros;

use std::fmt;

pub use binary::Binary;
pub use conv::{AsConv, Conv, ConvInputGrad, ConvWeightGrad, Window};
pub use cumsum::CumSum;
pub use gather::{Gather, ScatterAdd};
pub use matmul::MatMul;
pub use norm::{BatchNorm, BatchNormMode};
pub use pool::{AveragePool, MaxPool, MaxPoolIndices};
pub use properties::{Cost, Homogeneity};
pub use reduce::{Reduce, Reduction};
pub use select::{Cast, Detach, Where};
pub use shape::{Expand, Reshape, Transpose};
pub use sign_gram::SignGram;
pub use slice::{Concat, Pad, Slice};
pub use softmax::Softmax;
pub use topk::TopK;
pub use unary::Unary;
pub use writer::{Attr, Writer};

use crate::error::{Error, Result};
use crate::ir::{self, Fact, Operation, Value};
use crate::tensor::Tensor;

/// A graph of primitives.
pub type Graph = ir::Graph<Primitive>;

/// Makes graphs of primitives. The methods beside those of [`ir::Builder`] stand in the files of the
/// primitives that they apply.
pub type Builder = ir::Builder<Primitive>;

/// A node of a graph of primitives.
pub type Node = ir::Node<Primitive>;

/// What a node is: a leaf, or a primitive applied to operands.
pub type Op = ir::Op<Primitive>;

/// The operands and the result at which a rule is applied.
pub struct Site<'a> {
    /// The operands.
    pub inputs: &'a [Value],
    /// The result.
    pub output: Value,
    /// For each operand, whether its cotangent is wanted.
    pub wants: &'a [bool],
}

impl Site<'_> {
    /// Operand `i`.
    pub fn input(&self, i: usize) -> Value {
        self.inputs[i]
    }

    /// Whether the cotangent of operand `i` is wanted.
    pub fn wants(&self, i: usize) -> bool {
        self.wants[i]
    }
}

/// The cotangents of the operands, in order; `None` is a cotangent that is zero or not wanted.
pub type Cotangents = Vec<Option<Value>>;

/// An operand under `vmap`: with a leading lane axis, or the same for all lanes.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    /// The operand in the new graph.
    pub value: Value,
    /// Whether its leading axis is the lane axis.
    pub batched: bool,
}

impl Lane {
    /// The operand with a lane axis of size `n`, by broadcasting where it has none.
    pub fn spread(self, b: &mut Builder, n: usize) -> Result<Value> {
        if self.batched {
            return Ok(self.value);
        }
        let shape = b.shape(self.value);
        let mut target = vec![n];
        target.extend(shape);
        b.expand(self.value, &target)
    }
}

/// Whether and how an operation can be differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivative {
    /// By its gradient rule.
    Rule,
    /// It is zero wherever it is defined.
    Zero,
    /// Not at all, for this reason.
    Unsupported(&'static str),
}

/// What every primitive says of itself.
pub trait Rule {
    /// Dtype and shape of the result. Errs when the operands do not fit.
    fn infer(&self, inputs: &[&Fact]) -> Result<Fact>;

    /// The result, computed plainly (floats in float64, then rounded to the result's dtype).
    fn eval(&self, inputs: &[&Tensor], output: &Fact) -> Result<Tensor>;

    /// Whether [`Rule::vjp`] applies.
    fn derivative(&self) -> Derivative {
        Derivative::Rule
    }

    /// The vector-Jacobian product: cotangents of the operands from the cotangent `dy` of the
    /// result.
    fn vjp(&self, b: &mut Builder, site: &Site, dy: Value) -> Result<Cotangents>;

    /// The result for `n` lanes at once, with the lane axis leading. At least one operand is
    /// batched.
    fn batch(&self, b: &mut Builder, lanes: &[Lane], n: usize) -> Result<Value>;

    /// An operand or simpler operation that equals this one, if there is one.
    fn simplify(&self, _: &mut Builder, _: &[Value], _: &Fact) -> Result<Option<Value>> {
        Ok(None)
    }

    /// The same computation in other primitives, for an operation that standard ONNX has no operator
    /// for, or none that is exact.
    fn decompose(&self, _: &mut Builder, _: &[Value]) -> Result<Option<Value>> {
        Ok(None)
    }

    /// What a run costs, for operands and a result of these dtypes and shapes.
    fn cost(&self, inputs: &[&Fact], output: &Fact) -> Cost;

    /// How the result scales with the operands.
    fn homogeneity(&self) -> Homogeneity;

    /// Whether the result holds elements of the only operand, all or some of them, in places that do
    /// not depend on their values.
    fn moves(&self) -> bool;

    /// Whether the result is zero where the operands marked in `zero` are, whatever finite values the
    /// others have. Booleans are zero where they are false.
    fn vanishes(&self, zero: &[bool]) -> bool;

    /// Writes the operation as nodes of standard ONNX and returns the name of the result.
    fn emit(&self, e: &mut dyn Writer, inputs: &[Value], output: &Fact) -> Result<String>;
}

/// Declares [`Primitive`] as the sum of the op families, each reachable as a [`Rule`].
macro_rules! primitives {
    ($($family:ident),* $(,)?) => {
        /// A primitive operation with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Primitive {
            $($family($family)),*
        }

        impl Primitive {
            /// The names of all families, sorted.
            #[cfg(test)]
            pub(crate) const FAMILIES: &[&str] = &[$(stringify!($family)),*];

            /// The rules of the operation.
            pub fn rule(&self) -> &dyn Rule {
                match self {
                    $(Primitive::$family(op) => op),*
                }
            }

            /// The family's name.
            fn family(&self) -> &'static str {
                match self {
                    $(Primitive::$family(_) => stringify!($family)),*
                }
            }

            /// The operation with its attributes.
            fn described(&self) -> String {
                match self {
                    $(Primitive::$family(op) => format!("{op:?}")),*
                }
            }
        }

        $(impl From<$family> for Primitive {
            fn from(op: $family) -> Self {
                Primitive::$family(op)
            }
        })*
    };
}

impl Primitive {
    /// The name of the operation: that of the function, for an elementwise one, else the family's.
    pub fn name(&self) -> String {
        match self {
            Primitive::Binary(f) => format!("{f:?}"),
            Primitive::Unary(f) => format!("{f:?}"),
            op => op.family().to_owned(),
        }
    }
}

impl Operation for Primitive {
    fn name(&self) -> String {
        self.name()
    }

    fn attributes(&self) -> String {
        let debug = self.described();
        let at = debug.find([' ', '(']).unwrap_or(debug.len());
        debug[at..].trim_start().to_owned()
    }

    fn infer(&self, inputs: &[&Fact]) -> Result<Fact> {
        self.rule().infer(inputs)
    }

    fn eval(&self, inputs: &[&Tensor], output: &Fact) -> Result<Tensor> {
        self.rule().eval(inputs, output)
    }

    fn simplify(&self, b: &mut Builder, inputs: &[Value], output: &Fact) -> Result<Option<Value>> {
        self.rule().simplify(b, inputs, output)
    }

    fn is_broadcast(&self) -> bool {
        matches!(self, Primitive::Expand(_))
    }
}

primitives!(
    AveragePool,
    BatchNorm,
    Binary,
    Cast,
    Concat,
    Conv,
    ConvInputGrad,
    ConvWeightGrad,
    CumSum,
    Detach,
    Expand,
    Gather,
    MatMul,
    MaxPool,
    MaxPoolIndices,
    Pad,
    Reduce,
    Reshape,
    ScatterAdd,
    SignGram,
    Slice,
    Softmax,
    TopK,
    Transpose,
    Unary,
    Where,
);

/// A float attribute that can be compared and hashed: by its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Float(u64);

impl fmt::Debug for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl From<f64> for Float {
    fn from(value: f64) -> Self {
        Float(value.to_bits())
    }
}

impl Float {
    /// The value.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// The shape that operands of shapes `a` and `b` broadcast to.
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let dim = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
    (0..rank)
        .map(|i| match (dim(a, i), dim(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::Shape(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// Brings lanes of differing logical rank to one rank, so that broadcasting aligns the lane axes.
pub(crate) fn align(b: &mut Builder, lanes: &[Lane]) -> Result<Vec<Value>> {
    let logical = |b: &Builder, l: &Lane| b.rank(l.value) - usize::from(l.batched);
    let rank = lanes.iter().map(|l| logical(b, l)).max().unwrap_or(0);
    lanes
        .iter()
        .map(|lane| {
            let missing = rank - logical(b, lane);
            if !lane.batched || missing == 0 {
                return Ok(lane.value);
            }
            let mut shape = b.shape(lane.value);
            shape.splice(1..1, std::iter::repeat_n(1, missing));
            b.reshape(lane.value, &shape)
        })
        .collect()
}

/// The shape without its lane axis, for a batched operand.
pub(crate) fn unlaned(b: &Builder, lane: Lane) -> Vec<usize> {
    let shape = b.shape(lane.value);
    if lane.batched { shape[1..].to_vec() } else { shape }
}
