//! Writing a network as an ONNX model: layers in, nodes and initializers out.

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::{Architecture, BuildOptions};
use crate::onnx::{
    Attribute, DataType, Dim, Graph, Initializer, Literal, Model, Node, Opsets, Type, ValueInfo,
};
use crate::tensor::{DType, Tensor};
use crate::transform::{normal, uniform};

/// The version of `ai.onnx` that networks are written in.
const OPSET: i64 = 17;

/// The version of the file format that came with it.
const IR_VERSION: i64 = 8;

/// The names of the input and the output.
const INPUT: &str = "input";
const OUTPUT: &str = "logits";

/// Colours of an image.
const COLOURS: usize = 3;

/// The term under the root of a batch norm.
const EPSILON: f32 = 1e-5;

/// What weights are drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Init {
    /// PyTorch's defaults: `U(−1/√fan_in, 1/√fan_in)` for convolutions, the linear layer and its bias.
    PyTorch,
    /// `N(0, 2/(k²·c_out))` for convolutions, `N(0, 0.01²)` for the linear layer, biases of 0.
    FanOut,
}

/// A tensor of the network with a batch axis, channels, rows and columns.
#[derive(Clone, Debug)]
pub(super) struct Features {
    name: String,
    /// How many channels it has.
    pub channels: usize,
}

/// The window of a convolution or pool. It is padded such that with a stride of 1 and an odd size the
/// rows and columns stay as many as they are; a window of 2 is not padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Its rows and columns.
    pub size: [usize; 2],
    /// The stride along rows and columns.
    pub stride: [usize; 2],
    /// The distance of neighbours in it.
    pub dilation: usize,
}

impl Window {
    /// `size` rows and columns, the stride along both.
    pub fn square(size: usize, stride: usize) -> Self {
        Window { size: [size; 2], stride: [stride; 2], dilation: 1 }
    }

    /// The same with another dilation.
    pub fn dilated(self, dilation: usize) -> Self {
        Window { dilation, ..self }
    }

    fn attributes(&self) -> Vec<(String, Attribute)> {
        let pads = self.size.map(|size| (size - 1) * self.dilation / 2);
        let mut attributes = vec![
            ints("kernel_shape", self.size),
            ints("strides", self.stride),
            ints("pads", [pads[0], pads[1], pads[0], pads[1]]),
        ];
        if self.dilation != 1 {
            attributes.push(ints("dilations", [self.dilation; 2]));
        }
        attributes
    }
}

fn ints<const N: usize>(name: &str, values: [usize; N]) -> (String, Attribute) {
    (name.into(), Attribute::Ints(values.map(|v| v as i64).to_vec()))
}

/// A network under construction. Every layer has a name, which its node, its result and its parameters
/// begin with; no two have the same.
pub(super) struct Network<'a> {
    options: &'a BuildOptions,
    init: Init,
    graph: Graph,
    /// The constants that are there.
    constants: HashSet<String>,
}

impl<'a> Network<'a> {
    /// A network that has nothing but its input, images of three colours.
    pub fn new(options: &'a BuildOptions, init: Init) -> (Self, Features) {
        let size = Dim::Fixed(options.image_size);
        let dims = vec![batch(), Dim::Fixed(COLOURS), size.clone(), size];
        let graph = Graph { inputs: vec![declared(INPUT, dims)], ..Graph::default() };
        let network = Network { options, init, graph, constants: HashSet::new() };
        (network, Features { name: INPUT.into(), channels: COLOURS })
    }

    /// A convolution without bias, of one group or, with `depthwise`, of one for each channel.
    pub fn conv(&mut self, name: &str, x: &Features, channels: usize, window: Window) -> Features {
        self.grouped_conv(name, x, channels, window, 1)
    }

    /// A convolution of each channel by itself.
    pub fn depthwise_conv(&mut self, name: &str, x: &Features, window: Window) -> Features {
        self.grouped_conv(name, x, x.channels, window, x.channels)
    }

    fn grouped_conv(
        &mut self,
        name: &str,
        x: &Features,
        channels: usize,
        window: Window,
        groups: usize,
    ) -> Features {
        let [rows, columns] = window.size;
        let shape = [channels, x.channels / groups, rows, columns];
        let scale = match self.init {
            Init::PyTorch => ((shape[1] * rows * columns) as f64).sqrt().recip(),
            Init::FanOut => (2.0 / (rows * columns * channels) as f64).sqrt(),
        };
        let weight = self.drawn(&format!("{name}.weight"), &shape, scale);
        let mut attributes = window.attributes();
        if groups != 1 {
            attributes.push(("group".into(), Attribute::Int(groups as i64)));
        }
        let name = self.node("Conv", name, &[&x.name, &weight], attributes);
        Features { name, channels }
    }

    /// Batch normalisation as it is at first: scales of 1, shifts of 0, running means of 0 and
    /// variances of 1.
    pub fn norm(&mut self, name: &str, x: &Features) -> Features {
        let mut inputs = vec![x.name.clone()];
        for (what, value) in
            [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)]
        {
            let tensor = Tensor::full(DType::F32, &[x.channels], value);
            inputs.push(self.store(&format!("{name}.{what}"), tensor));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let epsilon = vec![("epsilon".into(), Attribute::Float(EPSILON))];
        self.kept("BatchNormalization", name, &inputs, epsilon, x)
    }

    /// `max(x, 0)`. Each use is a node of its own, as in the published networks: some scores count them.
    pub fn relu(&mut self, name: &str, x: &Features) -> Features {
        self.kept("Relu", name, &[&x.name], Vec::new(), x)
    }

    /// An average pool that does not count the padding.
    pub fn average_pool(&mut self, name: &str, x: &Features, window: Window) -> Features {
        let mut attributes = window.attributes();
        attributes.push(("count_include_pad".into(), Attribute::Int(0)));
        self.kept("AveragePool", name, &[&x.name], attributes, x)
    }

    /// A max pool, padded with −∞.
    pub fn max_pool(&mut self, name: &str, x: &Features, window: Window) -> Features {
        self.kept("MaxPool", name, &[&x.name], window.attributes(), x)
    }

    /// `x + y`.
    pub fn add(&mut self, name: &str, x: &Features, y: &Features) -> Features {
        self.kept("Add", name, &[&x.name, &y.name], Vec::new(), x)
    }

    /// The channels of `parts` side by side.
    pub fn concat(&mut self, name: &str, parts: &[Features]) -> Features {
        if let [only] = parts {
            return only.clone();
        }
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        let axis = vec![("axis".into(), Attribute::Int(1))];
        let channels = parts.iter().map(|part| part.channels).sum();
        Features { name: self.node("Concat", name, &names, axis), channels }
    }

    /// `x · 0`: nothing comes through, but the network stays connected, so that scores that look at
    /// what lies behind see what they see in the published networks.
    pub fn zero(&mut self, name: &str, x: &Features) -> Features {
        let zero = self.constant("zero", Tensor::full(DType::F32, &[], 0.0));
        self.kept("Mul", name, &[&x.name, &zero], Vec::new(), x)
    }

    /// Every `stride`-th row and column.
    pub fn subsample(&mut self, name: &str, x: &Features, stride: usize) -> Features {
        let steps = self.integers([stride as i64; 2]);
        let (from, to) = (self.integers([0, 0]), self.integers([i64::MAX; 2]));
        let axes = self.integers([2, 3]);
        self.kept("Slice", name, &[&x.name, &from, &to, &axes, &steps], Vec::new(), x)
    }

    /// All moved up and left by one: without the first row and column, and with zeros after the last.
    pub fn shift(&mut self, name: &str, x: &Features) -> Features {
        let pads = self.integers([0, 0, 0, 0, 0, 0, 1, 1]);
        let padded = self.kept("Pad", &format!("{name}.pad"), &[&x.name, &pads], Vec::new(), x);
        let (from, to) = (self.integers([1, 1]), self.integers([i64::MAX; 2]));
        let axes = self.integers([2, 3]);
        self.kept("Slice", name, &[&padded.name, &from, &to, &axes], Vec::new(), x)
    }

    /// The first `channels` channels.
    pub fn first_channels(&mut self, name: &str, x: &Features, channels: usize) -> Features {
        if channels == x.channels {
            return x.clone();
        }
        let (from, to) = (self.integers([0]), self.integers([channels as i64]));
        let axes = self.integers([1]);
        let name = self.node("Slice", name, &[&x.name, &from, &to, &axes], Vec::new());
        Features { name, channels }
    }

    /// The mean over rows and columns, a linear layer with bias, and the whole as a model of
    /// `architecture`.
    pub fn classify(mut self, x: &Features, architecture: &dyn Architecture) -> Model {
        let classes = self.options.classes;
        let pooled = self.node("GlobalAveragePool", "pool", &[&x.name], Vec::new());
        let flat = self.node("Flatten", "flatten", &[&pooled], Vec::new());
        let scale = match self.init {
            Init::PyTorch => (x.channels as f64).sqrt().recip(),
            Init::FanOut => 0.01,
        };
        let weight = self.drawn("classifier.weight", &[classes, x.channels], scale);
        let bias = match self.init {
            Init::PyTorch => self.drawn("classifier.bias", &[classes], scale),
            Init::FanOut => {
                self.store("classifier.bias", Tensor::full(DType::F32, &[classes], 0.0))
            }
        };
        let transposed = vec![("transB".into(), Attribute::Int(1))];
        self.node("Gemm", OUTPUT, &[&flat, &weight, &bias], transposed);
        self.graph.outputs = vec![declared(OUTPUT, vec![batch(), Dim::Fixed(classes)])];
        Model {
            source: architecture.name(),
            ir_version: IR_VERSION,
            producer: concat!("gradalign ", env!("CARGO_PKG_VERSION")).into(),
            opsets: Opsets::from([(String::new(), OPSET)]),
            graph: self.graph,
            metadata: vec![
                ("space".into(), architecture.space().into()),
                ("architecture".into(), architecture.notation()),
                ("seed".into(), self.options.seed.to_string()),
            ],
            ..Model::default()
        }
    }

    /// Adds a node and returns the name of its result, which is its own.
    fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<(String, Attribute)>,
    ) -> String {
        self.graph.nodes.push(Node {
            name: name.into(),
            op: op.into(),
            inputs: inputs.iter().map(|&input| input.into()).collect(),
            outputs: vec![name.into()],
            attributes,
            ..Node::default()
        });
        name.into()
    }

    /// A node whose result has as many channels as `like`.
    fn kept(
        &mut self,
        op: &str,
        name: &str,
        inputs: &[&str],
        attributes: Vec<(String, Attribute)>,
        like: &Features,
    ) -> Features {
        Features { name: self.node(op, name, inputs, attributes), channels: like.channels }
    }

    /// A parameter that is drawn, with `scale` for the bound or the standard deviation. Each has a
    /// generator of its own, so that it does not depend on what else the network has.
    fn drawn(&mut self, name: &str, shape: &[usize], scale: f64) -> String {
        let mut rng = generator(self.options.seed, name);
        let len = shape.iter().product();
        let values = match self.init {
            Init::PyTorch => uniform(len, scale, &mut rng),
            Init::FanOut => normal(len, scale, &mut rng),
        };
        let values = ndarray::Array1::from_vec(values).into_dyn();
        let tensor = Tensor::from(values);
        // There are as many values as the shape has places.
        let tensor = tensor.reshape(shape).unwrap_or(tensor);
        self.store(name, tensor)
    }

    fn constant(&mut self, name: &str, tensor: Tensor) -> String {
        match self.constants.insert(name.into()) {
            true => self.store(name, tensor),
            false => name.into(),
        }
    }

    fn integers<const N: usize>(&mut self, values: [i64; N]) -> String {
        let text: Vec<String> = values.iter().map(ToString::to_string).collect();
        self.constant(&text.join(","), Tensor::index(values))
    }

    fn store(&mut self, name: &str, tensor: Tensor) -> String {
        let stored = if tensor.dtype() == DType::F32 { DataType::Float } else { DataType::Int64 };
        let literal = Literal { stored, tensor: Ok(tensor) };
        self.graph.initializers.push(Initializer { name: name.into(), literal });
        name.into()
    }
}

fn batch() -> Dim {
    Dim::Named("batch".into())
}

fn declared(name: &str, dims: Vec<Dim>) -> ValueInfo {
    ValueInfo { name: name.into(), ty: Type::Tensor(DataType::Float, Some(dims)) }
}

/// The generator of `seed` that is called `name`: ChaCha8, seeded with the SHA-256 of both.
pub(super) fn generator(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = Sha256::new_with_prefix(seed.to_le_bytes()).chain_update(name).finalize();
    ChaCha8Rng::from_seed(digest.into())
}

/// How many numbers a network of a space trains, those without effect on its output included: what
/// published tables call its parameters.
pub fn parameters(model: &Model) -> u64 {
    let is_trained = |name: &str| name.ends_with(".weight") || name.ends_with(".bias");
    let trained = model.graph.initializers.iter().filter(|i| is_trained(&i.name));
    trained.filter_map(|i| i.literal.tensor.as_ref().ok()).map(|t| t.len() as u64).sum()
}
