//! What an ONNX file holds, decoded: nodes with typed attributes, and tensors.

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
    /// What messages call the model: its path, or a description where it is not a file.
    pub source: String,
    /// The version of the file format.
    pub ir_version: i64,
    /// The exporter and its version, as far as the file says.
    pub producer: String,
    /// The operator sets that the main graph is written in.
    pub opsets: Opsets,
    /// The main graph.
    pub graph: Graph,
    /// Functions that nodes may call as operators.
    pub functions: HashMap<FunctionKey, Function>,
    /// Named texts that exporters attach to the model.
    pub metadata: Vec<(String, String)>,
    /// The files beside the model that hold its tensors, by the locations that it gives them.
    pub external: BTreeMap<String, PathBuf>,
    /// What the user should know of the file.
    pub warnings: Vec<String>,
}

/// A graph, or the branch or body of a control-flow node.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The nodes, each after those it depends on.
    pub nodes: Vec<Node>,
    /// Named tensors stored in the file.
    pub initializers: Vec<Initializer>,
    /// Declared inputs, which may include initializers.
    pub inputs: Vec<ValueInfo>,
    /// Declared outputs.
    pub outputs: Vec<ValueInfo>,
    /// What the file says of the values between.
    pub values: Vec<ValueInfo>,
    /// Named texts that exporters attach to the graph.
    pub metadata: Vec<(String, String)>,
}

impl Graph {
    /// The tensors that are stored under a name, as initializers or in constant nodes.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &Literal)> {
        let initializers = self.initializers.iter().map(|i| (i.name.as_str(), &i.literal));
        initializers.chain(self.nodes.iter().filter_map(Node::stored))
    }
}

/// A function defined by the model itself.
#[derive(Clone, Debug)]
pub struct Function {
    /// The names of its operands inside the body.
    pub inputs: Vec<String>,
    /// The names of its results inside the body.
    pub outputs: Vec<String>,
    /// Default values of its attributes.
    pub defaults: Vec<(String, Attribute)>,
    /// The operator sets that the body is written in.
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
    /// Which of several functions of one name is meant.
    pub overload: String,
    /// Names of the operands; an empty name is an operand left out.
    pub inputs: Vec<String>,
    /// Names of the results; an empty name is a result not wanted.
    pub outputs: Vec<String>,
    /// Named attributes.
    pub attributes: Vec<(String, Attribute)>,
    /// Named texts that exporters attach to the node.
    pub metadata: Vec<(String, String)>,
}

impl Node {
    /// The node's name, or where it has none that of its first output.
    pub fn label(&self) -> &str {
        if self.name.is_empty() {
            self.outputs.iter().map(String::as_str).find(|o| !o.is_empty()).unwrap_or_default()
        } else {
            &self.name
        }
    }

    /// The operator, with its domain where it is not `ai.onnx`.
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

    /// The graphs among the attributes: branches and bodies.
    pub fn subgraphs(&self) -> impl Iterator<Item = &Graph> {
        self.attributes.iter().filter_map(|(_, value)| match value {
            Attribute::Graph(graph) => Some(&**graph),
            _ => None,
        })
    }
}

/// The value of an attribute.
#[derive(Clone, Debug)]
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
    /// The value of the calling node's attribute of this name (inside functions).
    Reference(String),
    /// Something of another kind, named here.
    Other(&'static str),
}

impl Attribute {
    /// What kind of value this is, in words.
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

/// A tensor from the file: its type there, and its values or why they cannot be used.
#[derive(Clone, Debug)]
pub struct Literal {
    /// The element type in the file.
    pub stored: DataType,
    /// The values in one of the IR's types, or the reason that there are none.
    pub tensor: Result<Tensor, String>,
}

/// A named tensor stored with a graph.
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
pub enum Type {
    /// A tensor of an element type, and its dimensions where the rank is declared.
    Tensor(DataType, Option<Vec<Dim>>),
    /// Something else, described in words; `unknown` where nothing is declared.
    Other(&'static str),
}

/// A declared dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A fixed size.
    Fixed(usize),
    /// A named size.
    Named(String),
    /// A size not said.
    Unknown,
}
