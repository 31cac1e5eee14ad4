//! What rules write themselves to, as nodes of ONNX.

use crate::ir::{Fact, Value};
use crate::tensor::{DType, Tensor};

/// An attribute of an ONNX node.
#[derive(Clone, Debug)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A float.
    Float(f32),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A string.
    Str(&'static str),
    /// An element type.
    DType(DType),
}

impl From<&[usize]> for Attr {
    fn from(values: &[usize]) -> Self {
        Attr::Ints(values.iter().map(|&v| v as i64).collect())
    }
}

impl From<&'static str> for Attr {
    fn from(value: &'static str) -> Self {
        Attr::Str(value)
    }
}

/// Takes the ONNX nodes that a value is written as. Tensors go by their names.
pub trait Writer {
    /// The name of an earlier value.
    fn name(&self, value: Value) -> String;

    /// Dtype and shape of a value.
    fn fact(&self, value: Value) -> &Fact;

    /// The tensor that a value is known to be: a constant or a parameter.
    fn constant(&self, value: Value) -> Option<&Tensor>;

    /// Adds a node with `outputs` outputs and returns their names.
    fn nodes(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attrs: &[(&str, Attr)],
    ) -> Vec<String>;

    /// The name of an initializer that holds `tensor`; equal small ones are shared.
    fn tensor(&mut self, tensor: &Tensor) -> String;

    /// Adds a node with one output and returns that output's name.
    fn node(&mut self, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> String {
        self.nodes(op, inputs, 1, attrs).swap_remove(0)
    }

    /// The name of a one-dimensional int64 initializer.
    fn i64s(&mut self, values: &[i64]) -> String {
        self.tensor(&Tensor::index(values.iter().copied()))
    }

    /// The name of a one-dimensional int64 initializer of sizes or axes.
    fn i64s_of(&mut self, values: &[usize]) -> String {
        self.tensor(&Tensor::index(values.iter().map(|&v| v as i64)))
    }

    /// The name of a scalar initializer.
    fn scalar(&mut self, dtype: DType, value: f64) -> String {
        self.tensor(&Tensor::full(dtype, &[], value))
    }

    /// Adds a reshape of the tensor called `x`.
    fn reshape(&mut self, x: &str, shape: &[usize]) -> String {
        let shape = self.i64s_of(shape);
        self.node("Reshape", &[x, &shape], &[])
    }

    /// Adds a transposition of the tensor called `x`.
    fn transpose(&mut self, x: &str, perm: &[usize]) -> String {
        self.node("Transpose", &[x], &[("perm", Attr::from(perm))])
    }

    /// Adds a cast of the tensor called `x`.
    fn cast(&mut self, x: &str, dtype: DType) -> String {
        self.node("Cast", &[x], &[("to", Attr::DType(dtype))])
    }

    /// Adds zeros of dtype and shape `fact`.
    fn zeros(&mut self, fact: &Fact) -> String {
        let zero = self.scalar(fact.dtype, 0.0);
        let shape = self.i64s_of(&fact.shape);
        self.node("Expand", &[&zero, &shape], &[])
    }
}
