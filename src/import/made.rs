//! Hand-written models for tests.

use crate::onnx::{Attribute, DataType, Dim, Initializer, Literal, Model, Node, Type, ValueInfo};
use crate::tensor::Tensor;

/// A model under construction.
pub(crate) struct Made(pub Model);

impl Made {
    /// A model with one float input `x`. A dimension of 0 stands for the named dimension `batch`.
    pub fn new(dims: &[usize]) -> Self {
        let dims = dims.iter().map(|&d| match d {
            0 => Dim::Named("batch".into()),
            d => Dim::Fixed(d),
        });
        let ty = Type::Tensor(DataType::Float, Some(dims.collect()));
        let mut model = Model { source: "made".into(), ..Model::default() };
        model.opsets.insert(String::new(), 17);
        model.graph.inputs.push(ValueInfo { name: "x".into(), ty });
        Made(model)
    }

    /// Adds an initializer.
    pub fn store(mut self, name: &str, stored: DataType, tensor: Tensor) -> Self {
        let literal = Literal { stored, tensor: Ok(tensor) };
        self.0.graph.initializers.push(Initializer { name: name.into(), literal });
        self
    }

    /// Adds a float weight whose values are all different.
    pub fn weight(self, name: &str, dims: &[usize]) -> Self {
        let start = name.bytes().map(f32::from).sum::<f32>();
        let count = dims.iter().product::<usize>();
        let values = (0..count).map(|i| (start + 2.3 * i as f32).sin() / 2.0).collect();
        self.store(name, DataType::Float, Tensor::f32(dims, values).unwrap())
    }

    pub fn scalar(self, name: &str, value: f32) -> Self {
        self.store(name, DataType::Float, Tensor::f32(&[], vec![value]).unwrap())
    }

    pub fn integers(self, name: &str, values: &[i64]) -> Self {
        self.store(name, DataType::Int64, Tensor::index(values.iter().copied()))
    }

    /// Adds nodes, one per line, such as `MatMul x w -> y` or `Transpose x perm=1,0 -> y`.
    pub fn nodes(mut self, lines: &str) -> Self {
        self.0.graph.nodes.extend(lines.lines().map(str::trim).filter(|l| !l.is_empty()).map(node));
        self
    }

    pub fn output(mut self, name: &str) -> Model {
        let ty = Type::Tensor(DataType::Float, None);
        self.0.graph.outputs.push(ValueInfo { name: name.into(), ty });
        self.0
    }
}

/// The node that a line describes.
pub(crate) fn node(line: &str) -> Node {
    let (call, outputs) = line.split_once(" -> ").unwrap();
    let mut words = call.split_whitespace();
    let op = words.next().unwrap().to_owned();
    let (attributes, inputs): (Vec<_>, Vec<_>) = words.partition(|word| word.contains('='));
    let attribute = |word: &str| {
        let (name, values) = word.split_once('=').unwrap();
        let list: Vec<i64> = values.split(',').map(|v| v.parse().unwrap()).collect();
        let is_list = list.len() > 1 || ["perm", "axes", "starts", "ends"].contains(&name);
        let value = if is_list { Attribute::Ints(list) } else { Attribute::Int(list[0]) };
        (name.to_owned(), value)
    };
    let outputs: Vec<String> = outputs.split_whitespace().map(str::to_owned).collect();
    Node {
        name: format!("to {}", outputs.join(" ")),
        op,
        inputs: inputs.into_iter().map(|i| if i == "_" { "" } else { i }.to_owned()).collect(),
        outputs,
        attributes: attributes.into_iter().map(attribute).collect(),
        ..Node::default()
    }
}
