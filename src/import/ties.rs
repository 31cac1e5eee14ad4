//! Tied parameters: several stored tensors that are one parameter of the network.
//!
//! Exporters store a tensor computed from a weight, often its transpose, once for each use. A layer
//! applied three times then has three matrices, and an output head tied to the embedding has its own.
//!
//! Random values are not equal by chance. So equal tensors become one parameter, and a transpose becomes
//! a view of it, unless the file says that they belong to different modules: layers may be initialised
//! as copies of each other. Tensors with a single value, such as scales of 1 and biases of 0, are equal
//! by chance. Such a bias is tied if the weight of its layer is.

use std::collections::{HashMap, HashSet};

use super::provenance::Owner;
use crate::error::Result;
use crate::graph::{Builder, Graph, Parameter, Value};
use crate::ops::{Binary, Op, Primitive};
use crate::tensor::Tensor;

/// The number of elements that are sampled to tell random values from a pattern.
const SAMPLED: usize = 512;

/// A tensor that begins with more values in sorted order than this is a table.
const ORDERED: usize = 6;

/// The number of ties that a note lists by name.
const LISTED: usize = 3;

/// The parameter that another one is tied to.
#[derive(Clone, Copy)]
struct Tie {
    to: Value,
    transposed: bool,
}

/// Ties parameters that are equal or transposes of each other. Returns the new graph, and a note that
/// lists the ties, if there are any. `owner` is what the file says about the owner of a tensor.
pub(super) fn tie(graph: Graph, owner: impl Fn(&str) -> Owner) -> Result<(Graph, Option<String>)> {
    let mut ties = equal_weights(&graph, owner);
    if ties.is_empty() {
        return Ok((graph, None));
    }
    biases_of_tied(&graph, &mut ties);
    let note = describe(&graph, &ties);
    let mut b = Builder::default();
    let mut made: HashMap<Value, Value> = HashMap::new();
    let map = b.import(&graph, |b, value, node, _| {
        if !matches!(node.op, Op::Parameter(_)) {
            return Ok(None);
        }
        let Tie { to, transposed } =
            ties.get(&value).copied().unwrap_or(Tie { to: value, transposed: false });
        let one = *made.entry(to).or_insert_with(|| {
            b.append(graph.node(to).op.clone(), Vec::new(), graph.fact(to).clone())
        });
        let one = match long_axes(graph.shape(value))[..] {
            [rows, columns] if transposed => {
                let matrix = b.reshape(one, &[columns, rows])?;
                b.transpose(matrix, &[1, 0])?
            }
            _ => one,
        };
        b.reshape(one, graph.shape(value)).map(Some)
    })?;
    b.copy_outputs(&graph, &map)?;
    Ok((b.finish(), Some(note)))
}

/// Ties between parameters with random values that are equal or transposes of each other.
fn equal_weights(graph: &Graph, owner: impl Fn(&str) -> Owner) -> HashMap<Value, Tie> {
    let mut by_length: HashMap<usize, Vec<(Value, &Parameter)>> = HashMap::new();
    for (value, parameter) in graph.parameters() {
        by_length.entry(parameter.tensor.len()).or_default().push((value, parameter));
    }
    let mut ties = HashMap::new();
    for same in by_length.into_values().filter(|same| same.len() > 1) {
        let mut by_digest: HashMap<u64, Vec<Class>> = HashMap::new();
        for (value, parameter) in same {
            let Some(values) = parameter.tensor.f32_slice().filter(|v| is_drawn(v)) else {
                continue;
            };
            let classes = by_digest.entry(digest(values)).or_default();
            let owner = owner(&parameter.name);
            let found = classes.iter_mut().find_map(|class| {
                let first = class.members.first()?.value;
                let fits = class.admits(&owner).then(|| relation(graph, first, value));
                Some((class, fits.flatten()?))
            });
            match found {
                Some((class, transposed)) => class.add(value, owner, transposed),
                None => {
                    let mut class = Class::default();
                    class.add(value, owner, false);
                    classes.push(class);
                }
            }
        }
        for Class { members, named, .. } in by_digest.into_values().flatten() {
            // Prefer the name that a module gives to the parameter.
            let Some(&to) = members.get(named.unwrap_or(0)) else { continue };
            for member in members.iter().filter(|member| member.value != to.value) {
                let transposed = member.transposed != to.transposed;
                ties.insert(member.value, Tie { to: to.value, transposed });
            }
        }
    }
    ties
}

/// Tensors that are one parameter: equal or transposes of each other, with compatible owners.
#[derive(Default)]
struct Class {
    members: Vec<Member>,
    /// The first member whose owner is a parameter.
    named: Option<usize>,
    /// The distinct owners of the members.
    owners: Vec<Owner>,
}

/// A tensor in a class.
#[derive(Clone, Copy)]
struct Member {
    value: Value,
    /// Whether it is the transpose of the first member.
    transposed: bool,
}

impl Class {
    fn admits(&self, owner: &Owner) -> bool {
        self.owners.iter().all(|known| known.is_compatible(owner))
    }

    fn add(&mut self, value: Value, owner: Owner, transposed: bool) {
        if matches!(owner, Owner::Parameter(_)) {
            self.named.get_or_insert(self.members.len());
        }
        self.members.push(Member { value, transposed });
        if !self.owners.contains(&owner) {
            self.owners.push(owner);
        }
    }
}

/// The axes of a shape that are longer than 1.
fn long_axes(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&d| d != 1).collect()
}

/// [`related`] for two parameters of a graph.
fn relation(graph: &Graph, a: Value, b: Value) -> Option<bool> {
    match (&graph.node(a).op, &graph.node(b).op) {
        (Op::Parameter(p), Op::Parameter(q)) => related(&p.tensor, &q.tensor),
        _ => None,
    }
}

/// `Some(false)` for equal tensors, `Some(true)` for transposes of each other, else `None`. Axes of
/// length 1 are ignored: a layer folded on zeros leaves its bias with a batch axis.
pub(super) fn related(a: &Tensor, b: &Tensor) -> Option<bool> {
    let (x, y) = (a.f32_slice()?, b.f32_slice()?);
    let (of_a, of_b) = (long_axes(a.shape()), long_axes(b.shape()));
    if of_a == of_b && x == y {
        return Some(false);
    }
    match (&of_a[..], &of_b[..]) {
        (&[rows, columns], &[r, c]) if (rows, columns) == (c, r) => {
            let turned = |i: usize| y.iter().skip(i).step_by(rows);
            x.chunks(columns).enumerate().all(|(i, row)| row.iter().eq(turned(i))).then_some(true)
        }
        _ => None,
    }
}

/// A hash of the values that does not depend on their order: a sum of scrambled bits.
pub(super) fn digest(values: &[f32]) -> u64 {
    let scrambled = |v: &f32| {
        let x = u64::from(v.to_bits()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    values.iter().fold(0, |sum, v| sum.wrapping_add(scrambled(v)))
}

/// Whether the values look random: most of them differ, and they are not sorted.
fn is_drawn(values: &[f32]) -> bool {
    let step = values.len().div_ceil(SAMPLED).max(1);
    let mut sample: Vec<u32> = values.iter().step_by(step).map(|v| v.to_bits()).collect();
    let sampled = sample.len();
    sample.sort_unstable();
    sample.dedup();
    let start = &values[..values.len().min(64)];
    let ordered = start.len() > ORDERED && (start.is_sorted() || start.is_sorted_by(|a, b| a >= b));
    sampled > 1 && sample.len() * 2 > sampled && !ordered
}

/// Ties the biases with a single value that belong to tied weights.
fn biases_of_tied(graph: &Graph, ties: &mut HashMap<Value, Tie>) {
    let mut weights: HashSet<Value> = ties.values().map(|tie| tie.to).collect();
    weights.extend(ties.keys());
    let mut first: HashMap<(Value, u32, Vec<usize>), Value> = HashMap::new();
    let mut found = Vec::new();
    for (_, node) in graph.nodes() {
        let Op::Apply(Primitive::Binary(Binary::Add)) = &node.op else { continue };
        for (product, bias) in [(0, 1), (1, 0)] {
            let (product, bias) = (node.inputs[product], without_views(graph, node.inputs[bias]));
            let Op::Parameter(parameter) = &graph.node(bias).op else { continue };
            let Some(weight) = weight_of(graph, product).filter(|w| weights.contains(w)) else {
                continue;
            };
            let Some(number) = filled(&parameter.tensor) else { continue };
            let weight = ties.get(&weight).map_or(weight, |tie| tie.to);
            let key = (weight, number.to_bits(), parameter.tensor.shape().to_vec());
            let to = *first.entry(key).or_insert(bias);
            if to != bias {
                found.push((bias, Tie { to, transposed: false }));
            }
        }
    }
    ties.extend(found);
}

/// `value` without the reshapes, transposes and broadcasts around it.
fn without_views(graph: &Graph, mut value: Value) -> Value {
    while let Op::Apply(Primitive::Reshape(_) | Primitive::Transpose(_) | Primitive::Expand(_)) =
        graph.node(value).op
    {
        value = graph.node(value).inputs[0];
    }
    value
}

/// The weight, if `value` is a matrix product or convolution with one.
fn weight_of(graph: &Graph, value: Value) -> Option<Value> {
    let node = graph.node(without_views(graph, value));
    let Op::Apply(Primitive::Conv(_) | Primitive::ConvInputGrad(_) | Primitive::MatMul(_)) =
        node.op
    else {
        return None;
    };
    let parameter = |&v: &Value| matches!(graph.node(v).op, Op::Parameter(_)).then_some(v);
    node.inputs.iter().map(|&v| without_views(graph, v)).find_map(|v| parameter(&v))
}

/// The value of all elements, if they are equal.
fn filled(tensor: &Tensor) -> Option<f32> {
    let (&first, rest) = tensor.f32_slice()?.split_first()?;
    rest.iter().all(|&v| v == first).then_some(first)
}

fn describe(graph: &Graph, ties: &HashMap<Value, Tie>) -> String {
    let name = |value: Value| graph.name(value).unwrap_or_default();
    let mut all: Vec<(Value, Tie)> = ties.iter().map(|(&value, &tie)| (value, tie)).collect();
    all.sort_unstable_by_key(|(value, _)| *value);
    let each = all.iter().take(LISTED).map(|(value, tie)| {
        let turned = if tie.transposed { ", transposed" } else { "" };
        format!("'{}' is '{}'{turned}", name(*value), name(tie.to))
    });
    let mut list: Vec<String> = each.collect();
    if all.len() > LISTED {
        list.push(format!("and {} more", all.len() - LISTED));
    }
    format!("equal tensors are taken as one parameter, tied: {}", list.join(", "))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::{Dataset, Options, Samples};
    use crate::engine::all_for_tests;
    use crate::graph::Fact;
    use crate::import::{ImportOptions, import};
    use crate::onnx::{Model, load};
    use crate::score::{Settings, prepare, score};
    use crate::tensor::DType;

    /// A row of `fixtures/ties/ties.json`, by `scripts/make_ties.py`.
    #[derive(serde::Deserialize)]
    struct Reference {
        model: PathBuf,
        data: PathBuf,
        parameters: u64,
        #[serde(rename = "gradalign-1")]
        gradalign_1: f64,
        #[serde(rename = "gradalign-2")]
        gradalign_2: f64,
    }

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/ties")
    }

    fn references() -> Vec<Reference> {
        let text = std::fs::read(folder().join("ties.json")).unwrap();
        let references: Vec<Reference> = serde_json::from_slice(&text).unwrap();
        assert!(references.len() >= 11);
        references
    }

    #[test]
    fn parameters_of_fresh_networks_are_those_of_pytorch() {
        let options = Options { samples: Samples::All, ..Options::default() };
        for reference in references() {
            let data = folder().join(&reference.data);
            let dataset = Dataset::open(data.to_str().unwrap(), &options).unwrap();
            let model = load(folder().join(&reference.model)).unwrap();
            let settings = Settings::default();
            let (imported, batch, loss, _) = prepare(&model, &dataset, &settings).unwrap();
            for engine in all_for_tests() {
                let at = format!("{} on {}", reference.model.display(), engine.describe().name);
                let scored = score(&imported.graph, &batch, loss, &settings, &*engine).unwrap();
                let names = imported.graph.parameters().map(|(_, p)| p.name.clone());
                let names: Vec<_> = names.collect();
                assert_eq!(scored.size.parameters, reference.parameters, "{at}: {names:?}");
                let wanted = [reference.gradalign_1, reference.gradalign_2];
                for (score, wanted) in scored.scores.iter().zip(wanted) {
                    let error = (score.value - wanted).abs() / wanted.abs();
                    assert!(error < 1e-3, "{at}: {} {} {wanted}", score.name, score.value);
                }
            }
        }
    }

    fn number_of_parameters(model: &Model) -> (usize, Vec<String>, Vec<String>) {
        let imported = import(model, &ImportOptions::default()).unwrap();
        let count = imported.graph.parameters().map(|(_, p)| p.tensor.len()).sum();
        (count, imported.warnings, imported.notes)
    }

    #[test]
    fn ties_are_listed_in_a_note() {
        let model = load(folder().join("language-dynamo.onnx")).unwrap();
        let (_, _, notes) = number_of_parameters(&model);
        assert!(notes.iter().any(|n| n.contains("transposed")), "{notes:?}");
    }

    /// A file that no longer says which node reads which parameter gives a warning.
    #[test]
    fn merged_parameters_without_a_trace_are_warned_of() {
        let mut model = load(folder().join("copied-dynamo.onnx")).unwrap();
        let (all, warnings, _) = number_of_parameters(&model);
        assert!(warnings.is_empty(), "{warnings:?}");
        model.graph.metadata.clear();
        let (named, warnings, _) = number_of_parameters(&model);
        assert_eq!((named, warnings.len()), (all, 0));
        for node in &mut model.graph.nodes {
            node.metadata.clear();
        }
        let (merged, warnings, _) = number_of_parameters(&model);
        assert!(merged < all && warnings[0].contains("several parameters"), "{warnings:?}");
    }

    fn drawn(seed: f32, len: usize) -> Vec<f32> {
        (0..len).map(|i| (seed + 2.3 * i as f32).sin()).collect()
    }

    /// The number of parameters that are left after tying tensors with these names, shapes and values.
    fn left(tensors: &[(&str, &[usize], Vec<f32>)], owner: impl Fn(&str) -> Owner) -> usize {
        let mut b = Builder::default();
        for (name, shape, values) in tensors {
            let value = b.parameter(*name, Tensor::f32(shape, values.clone()).unwrap());
            b.output(*name, value);
        }
        let (graph, _) = tie(b.finish(), owner).unwrap();
        for (output, (_, shape, values)) in graph.outputs().iter().zip(tensors) {
            let value = crate::graph::eval(&graph.with_outputs(vec![output.clone()]), &[]).unwrap();
            assert_eq!(value[0], Tensor::f32(shape, values.clone()).unwrap());
        }
        graph.parameters().count()
    }

    #[test]
    fn equal_tensors_are_one_unless_chance_or_the_file_says_otherwise() {
        let unknown = |_: &str| Owner::Unknown;
        let named = |name: &str| Owner::Parameter(name.to_owned());
        let (a, b) = (drawn(0.0, 12), drawn(1.0, 12));
        let turned: Vec<f32> = (0..12).map(|i| a[(i % 3) * 4 + i / 3]).collect();
        let both =
            |x: &[f32], y: &[f32]| [("p", &[3, 4][..], x.to_vec()), ("q", &[3, 4], y.to_vec())];
        assert_eq!(left(&both(&a, &a), unknown), 1);
        assert_eq!(left(&both(&a, &b), unknown), 2);
        assert_eq!(left(&both(&a, &a), named), 2);
        assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[4, 3], turned.clone())], unknown), 1);
        assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[4, 3], a.clone())], unknown), 2);
        assert_eq!(left(&[("p", &[3, 4], a.clone()), ("q", &[3, 4], turned)], unknown), 2);
        // Axes of length 1 make no difference.
        assert_eq!(left(&[("p", &[12], a.clone()), ("q", &[1, 1, 12], a.clone())], unknown), 1);
        let turned_again: Vec<f32> = (0..12).map(|i| a[(i % 3) * 4 + i / 3]).collect();
        let matrices = [("p", &[1, 3, 4][..], a.clone()), ("q", &[4, 3, 1], turned_again)];
        assert_eq!(left(&matrices, unknown), 1);
        // Equal by chance: one number, a table in order, an identity.
        let table: Vec<f32> = (1..=12).map(|i| (i as f32).ln()).collect();
        let identity: Vec<f32> = (0..12).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
        for pattern in [vec![1.0; 12], table, identity] {
            assert_eq!(left(&both(&pattern, &pattern), unknown), 2);
        }
        // Modules of one name are one; a tensor of a module and one that the exporter made, too.
        let module = |name: &str| match name {
            "p" => Owner::Parameter("p".into()),
            _ => Owner::Module("head".into()),
        };
        assert_eq!(left(&both(&a, &a), module), 1);
    }

    /// Biases of zero are tied only if the weights of their layers are.
    #[test]
    fn biases_follow_the_weight_of_their_layer() {
        let mut b = Builder::default();
        let x = b.input("x", Fact::new(DType::F32, [2, 3]));
        let mut y = x;
        for (name, weight) in [("a", 0.0), ("b", 0.0), ("c", 1.0)] {
            let w =
                b.parameter(format!("{name}.w"), Tensor::f32(&[3, 3], drawn(weight, 9)).unwrap());
            let bias = b.parameter(format!("{name}.b"), Tensor::full(DType::F32, &[3], 0.0));
            y = b.matmul(y, w).unwrap();
            y = b.add(y, bias).unwrap();
        }
        b.output("y", y);
        let (graph, note) = tie(b.finish(), |_| Owner::Unknown).unwrap();
        let names: Vec<_> = graph.parameters().map(|(_, p)| p.name.to_string()).collect();
        assert_eq!(names, ["a.w", "a.b", "c.w", "c.b"]);
        assert!(note.unwrap().contains("'b.w' is 'a.w'"));
    }
}
