//! The decoded contents of an ONNX file: graphs, nodes with typed attributes, and tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use super::proto::tensor_proto::DataType;
use crate::tensor::Tensor;

/// Versions of operator sets by domain; `ai.onnx` is the empty domain.
pub type Opsets = BTreeMap<String, i64>;

/// A local function's domain, name and overload.
pub type FunctionKey = (String, String, String);

/// An ONNX model.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The name of the model in messages: its path, or a description if it is not a file.
    pub source: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The exporter and its version; may be empty.
    pub producer: String,
    /// The operator sets of the main graph.
    pub opsets: Opsets,
    /// The main graph.
    pub graph: Graph,
    /// The model's local functions, which nodes call like operators.
    pub functions: HashMap<FunctionKey, Function>,
    /// Metadata of the model.
    pub metadata: Vec<(String, String)>,
    /// The files with external data, by their location in the model.
    pub external: BTreeMap<String, PathBuf>,
    /// Warnings about the file.
    pub warnings: Vec<String>,
}

/// The main graph, or a branch or body of a control-flow node.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The nodes, each after those it depends on.
    pub nodes: Vec<Node>,
    /// Named tensors stored in the file.
    pub initializers: Vec<Initializer>,
    /// Declared inputs. They may include initializers.
    pub inputs: Vec<ValueInfo>,
    /// Declared outputs.
    pub outputs: Vec<ValueInfo>,
    /// Declared types of intermediate values.
    pub values: Vec<ValueInfo>,
    /// Metadata of the graph.
    pub metadata: Vec<(String, String)>,
}

impl Graph {
    /// The named tensors stored in the graph: initializers and constant nodes.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &Literal)> {
        let initializers = self.initializers.iter().map(|i| (i.name.as_str(), &i.literal));
        initializers.chain(self.nodes.iter().filter_map(Node::stored))
    }
}

/// A local function of a model.
#[derive(Clone, Debug)]
pub struct Function {
    /// The names of the operands inside the body.
    pub inputs: Vec<String>,
    /// The names of the results inside the body.
    pub outputs: Vec<String>,
    /// Default values of attributes.
    pub defaults: Vec<(String, Attribute)>,
    /// The operator sets of the body.
    pub opsets: Opsets,
    /// The body.
    pub nodes: Vec<Node>,
}

/// An application of an operator or a local function.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The node's name; may be empty.
    pub name: String,
    /// The operator.
    pub op: String,
    /// The operator's domain; empty for `ai.onnx`.
    pub domain: String,
    /// Selects among local functions of the same name; usually empty.
    pub overload: String,
    /// Names of the operands; empty for an omitted operand.
    pub inputs: Vec<String>,
    /// Names of the results; empty for an unwanted result.
    pub outputs: Vec<String>,
    /// Named attributes.
    pub attributes: Vec<(String, Attribute)>,
    /// Metadata of the node.
    pub metadata: Vec<(String, String)>,
}

impl Node {
    /// The node's name, or that of its first result if it has no name.
    pub fn label(&self) -> &str {
        if self.name.is_empty() {
            self.outputs.iter().map(String::as_str).find(|o| !o.is_empty()).unwrap_or_default()
        } else {
            &self.name
        }
    }

    /// The operator, with its domain unless that is `ai.onnx`.
    pub fn full_op(&self) -> String {
        if self.domain.is_empty() {
            self.op.clone()
        } else {
            format!("{}.{}", self.domain, self.op)
        }
    }

    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// The name and the tensor of a constant node.
    pub fn stored(&self) -> Option<(&str, &Literal)> {
        let is_constant = self.op == "Constant" && self.domain.is_empty();
        match self.attribute("value").filter(|_| is_constant) {
            Some(Attribute::Tensor(literal)) => Some((self.outputs.first()?, literal)),
            _ => None,
        }
    }

    /// The attributes that are graphs: branches and bodies.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().filter_map(|(_, value)| match value {
            Attribute::Graph(graph) => Some(&**graph),
            _ => None,
        })
    }
}

/// The value of an attribute.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Attribute {
    /// A float.
    Float(f32),
    /// An integer.
    Int(i64),
    /// A string.
    String(String),
    /// A tensor.
    Tensor(Literal),
    /// A graph.
    Graph(Box<Graph>),
    /// A list of floats.
    Floats(Vec<f32>),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A list of strings.
    Strings(Vec<String>),
    /// Inside a function, a reference to the attribute of this name of the calling node.
    Reference(String),
    /// A value of a kind that is not supported, in words.
    Other(&'static str),
}

impl Attribute {
    /// The kind of value, in words.
    pub fn kind(&self) -> &'static str {
        match self {
            Attribute::Float(_) => "a float",
            Attribute::Int(_) => "an integer",
            Attribute::String(_) => "a string",
            Attribute::Tensor(_) => "a tensor",
            Attribute::Graph(_) => "a graph",
            Attribute::Floats(_) => "a list of floats",
            Attribute::Ints(_) => "a list of integers",
            Attribute::Strings(_) => "a list of strings",
            Attribute::Reference(_) => "a reference to another attribute",
            Attribute::Other(kind) => kind,
        }
    }
}

/// A tensor from the file.
#[derive(Clone, Debug)]
pub struct Literal {
    /// The element type in the file.
    pub stored: DataType,
    /// The values in a dtype of the IR, or the reason why they cannot be used.
    pub tensor: Result<Tensor, String>,
}

/// A named tensor stored in a graph.
#[derive(Clone, Debug)]
pub struct Initializer {
    /// The name.
    pub name: String,
    /// The values.
    pub literal: Literal,
}

/// The declared name and type of an input or output.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// The name.
    pub name: String,
    /// The type.
    pub ty: Type,
}

/// A declared type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Type {
    /// A tensor with its element type, and its dimensions if the rank is declared.
    Tensor(DataType, Option<Vec<Dim>>),
    /// Another type, in words; `unknown` if no type is declared.
    Other(&'static str),
}

/// A declared dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A named size.
    Named(String),
    /// A size that is not declared.
    Unknown,
}
