//! The batch axis of each input, given by the user or guessed.
//!
//! A guess uses the names of dimensions, sizes that several inputs share, and the layouts that operators
//! define. Where these do not tell, the input is [`Layout::Unclear`], with a message that says which
//! option decides.

use std::collections::HashMap;

use super::ImportOptions;
use crate::error::{Error, Result};
use crate::onnx::{Dim, Model, Type, ValueInfo};

/// How the samples lie in an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Along this batch axis.
    Batch(usize),
    /// The input has no batch axis: all of it belongs to one sample.
    Whole,
    /// The user fixed the value of the input, which becomes a constant. Holds the axis that would be the
    /// batch axis, if there is one.
    Fixed(Option<usize>),
    /// Not known, for this reason.
    Unclear(String),
}

/// The layouts of the inputs `declared`. Only those that are `needed` count when a common batch size is
/// looked for.
///
/// # Errors
/// When an option names something that is not an input, gives an input both a value and a batch axis,
/// or names an axis that does not exist.
pub(super) fn layouts<'m>(
    model: &'m Model,
    declared: &[&'m ValueInfo],
    needed: impl Fn(&str) -> bool,
    options: &ImportOptions,
) -> Result<HashMap<&'m str, Layout>> {
    let source = &model.source;
    let given = options.shapes.keys().chain(options.fixed.keys()).chain(options.batch_axes.keys());
    for name in given {
        if declared.iter().all(|d| d.name != *name) {
            let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
            return Err(Error::Usage(format!(
                "{source}: something is given for '{name}', which is not an input; the inputs are: \
                 {}",
                names.join(", ")
            )));
        }
    }
    let mut layouts = HashMap::new();
    let mut open: Vec<Open> = Vec::new();
    for info in declared {
        let name = info.name.as_str();
        let dims = dims_of(info, options);
        match (options.batch_axes.get(name), options.fixed.contains_key(name)) {
            (Some(_), true) => {
                return Err(Error::Usage(format!(
                    "{source}: input '{name}' is given a value and a batch axis; a setting has no \
                     batch axis"
                )));
            }
            (Some(Some(axis)), _) if dims.as_ref().is_some_and(|dims| *axis >= dims.len()) => {
                let rank = dims.map_or(0, |dims| dims.len());
                return Err(Error::Usage(format!(
                    "{source}: axis {axis} is given as the batch axis of input '{name}', which has \
                     {rank} axes"
                )));
            }
            (Some(Some(axis)), _) => {
                layouts.insert(name, Layout::Batch(*axis));
            }
            (Some(None), _) => {
                layouts.insert(name, Layout::Whole);
            }
            (None, _) => match dims {
                None => {
                    layouts.insert(name, Layout::Batch(0));
                }
                Some(dims) => {
                    let votes = needed(name) && !dims.is_empty();
                    open.push(Open {
                        name,
                        dims,
                        votes: votes && !options.fixed.contains_key(name),
                    });
                }
            },
        }
    }
    let states = recurrent_operands(model);
    let common = common_size(&open, &states);
    for Open { name, dims, .. } in &open {
        let layout = match (states.get(name), &common) {
            (Some(&axis), _) if axis < dims.len() => Layout::Batch(axis),
            (_, Some(size)) if let Some(axis) = axis_of(size, dims) => Layout::Batch(axis),
            _ => alone(name, dims),
        };
        layouts.insert(*name, layout);
    }
    for (name, layout) in &mut layouts {
        if options.fixed.contains_key(*name) {
            *layout = Layout::Fixed(match layout {
                Layout::Batch(axis) => Some(*axis),
                _ => None,
            });
        }
    }
    Ok(layouts)
}

/// An input whose batch axis is not given.
struct Open<'m> {
    name: &'m str,
    dims: Vec<Dim>,
    /// Whether it counts when a common batch size is looked for.
    votes: bool,
}

/// The dimensions of an input, declared or given by the user.
fn dims_of(info: &ValueInfo, options: &ImportOptions) -> Option<Vec<Dim>> {
    match &info.ty {
        Type::Tensor(_, Some(dims)) => Some(dims.clone()),
        _ => options
            .shapes
            .get(&info.name)
            .map(|given| given.iter().map(|&d| Dim::Fixed(d)).collect()),
    }
}

/// The inputs that recurrent operators read, with their batch axis: axis 1 of sequences `[T, N, K]` and
/// of states `[directions, N, H]`.
fn recurrent_operands(model: &Model) -> HashMap<&str, usize> {
    let nodes = model.graph.nodes.iter();
    let recurrent = nodes.filter(|node| {
        let by_batch = matches!(node.attribute("layout"), Some(crate::onnx::Attribute::Int(1)));
        ["LSTM", "GRU", "RNN"].contains(&node.op.as_str()) && node.domain.is_empty() && !by_batch
    });
    let operands = recurrent.flat_map(|node| [0, 5, 6].map(|i| node.inputs.get(i)));
    operands.flatten().filter(|name| !name.is_empty()).map(|name| (name.as_str(), 1)).collect()
}

/// How likely the name of a dimension makes it the batch: above 0 for names of a batch, below 0 for
/// names of something else.
fn batch_like(dim: &Dim) -> i32 {
    let Dim::Named(name) = dim else { return 0 };
    let name = name.to_lowercase();
    if name.contains("batch") {
        return 2;
    }
    if ["n", "b", "bs"].contains(&name.as_str()) {
        return 1;
    }
    let others = ["seq", "time", "len", "frame", "token", "height", "width", "channel"];
    if ["t", "h", "w", "c", "l"].contains(&name.as_str()) || others.iter().any(|o| name.contains(o))
    {
        return -1;
    }
    0
}

/// The first axis with the size `size`.
fn axis_of(size: &Dim, dims: &[Dim]) -> Option<usize> {
    match size {
        Dim::Unknown => None,
        known => dims.iter().position(|dim| dim == known),
    }
}

/// The size that is most likely the batch among those that every input has on some axis: the one with
/// the likeliest name, then the one that most inputs have in front. A number counts only if it is 1 or
/// in front of some input.
fn common_size(open: &[Open], states: &HashMap<&str, usize>) -> Option<Dim> {
    let voters: Vec<&Open> = open.iter().filter(|input| input.votes).collect();
    let first = voters.first()?;
    let in_front = |size: &Dim| {
        voters
            .iter()
            .filter(|input| {
                let front = states.get(input.name).copied().unwrap_or(0);
                axis_of(size, &input.dims) == Some(front)
            })
            .count()
    };
    let everywhere = |size: &&Dim| voters.iter().all(|input| axis_of(size, &input.dims).is_some());
    let likely = |size: &&Dim| match size {
        Dim::Fixed(n) => *n == 1 || in_front(size) > 0,
        _ => true,
    };
    let sizes = first.dims.iter().filter(everywhere).filter(likely);
    // `max_by_key` returns the last maximum; reversed, that is the first axis.
    sizes.rev().max_by_key(|size| (batch_like(size), in_front(size))).cloned()
}

/// The layout of an input that shares no size with all others.
fn alone(name: &str, dims: &[Dim]) -> Layout {
    let Some(first) = dims.first() else {
        return Layout::Unclear(format!(
            "input '{name}' is a single number without a batch axis: where it is a setting, give \
             its value with `fix` {name}=VALUE; where each sample has its own, say `batch-axis` \
             {name}=none"
        ));
    };
    let named = (0..dims.len()).rev().max_by_key(|&axis| batch_like(&dims[axis]));
    if let Some(axis) = named.filter(|&axis| batch_like(&dims[axis]) > 0) {
        return Layout::Batch(axis);
    }
    if !matches!(first, Dim::Fixed(n) if *n != 1) {
        return Layout::Batch(0);
    }
    let can_be = |axis: &usize| match &dims[*axis] {
        Dim::Fixed(n) => *n == 1,
        named => batch_like(named) >= 0,
    };
    let candidates: Vec<usize> = (0..dims.len()).filter(can_be).collect();
    match candidates[..] {
        [axis] => Layout::Batch(axis),
        _ => Layout::Unclear(format!(
            "it is not clear which axis of input '{name}' ({}) is the batch: say `batch-axis` \
             {name}=AXIS, or `batch-axis` {name}=none where it has none; where it is a setting, give \
             its value with `fix` {name}=VALUE",
            show(dims)
        )),
    }
}

fn show(dims: &[Dim]) -> String {
    let dims = dims.iter().map(|dim| match dim {
        Dim::Fixed(n) => n.to_string(),
        Dim::Named(name) => name.clone(),
        Dim::Unknown => "?".into(),
    });
    dims.collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{DataType, Graph};

    /// The layouts of inputs written `x: batch 3 8`, where `?` is a dimension left open.
    fn guessed(inputs: &[&str]) -> Vec<Layout> {
        let infos: Vec<ValueInfo> = inputs
            .iter()
            .map(|line| {
                let (name, dims) = line.split_once(':').unwrap();
                let dims = dims.split_whitespace().map(|dim| match dim.parse() {
                    Ok(n) => Dim::Fixed(n),
                    Err(_) if dim == "?" => Dim::Unknown,
                    Err(_) => Dim::Named(dim.into()),
                });
                let ty = Type::Tensor(DataType::Float, Some(dims.collect()));
                ValueInfo { name: name.into(), ty }
            })
            .collect();
        let model = Model {
            graph: Graph { inputs: infos, ..Graph::default() },
            source: "m".into(),
            ..Model::default()
        };
        let declared: Vec<&ValueInfo> = model.graph.inputs.iter().collect();
        let all = layouts(&model, &declared, |_| true, &ImportOptions::default()).unwrap();
        declared.iter().map(|d| all[d.name.as_str()].clone()).collect()
    }

    #[test]
    fn the_batch_axis_is_guessed_from_names_and_common_sizes() {
        use Layout::Batch;
        for (inputs, axes) in [
            (&["x: N 3 8 8"][..], &[0][..]),
            (&["x: 4 3 8 8"], &[0]),
            (&["x: 4 1 8 8"], &[0]),
            (&["x: seq batch 8"], &[1]),
            (&["x: T N 8"], &[1]),
            (&["x: time 1 8"], &[1]),
            (&["x: ? ?"], &[0]),
            (&["x: s0 3 s1 s1"], &[0]),
            (&["x: s0 40", "state: 2 s0 6"], &[0, 1]),
            (&["state: 2 s0 6", "x: s0 40"], &[1, 0]),
            (&["x: 1 6", "state: 2 1 6"], &[0, 1]),
            (&["state: 2 1 6", "x: 1 6"], &[1, 0]),
            (&["x: 4 6", "state: 2 4 6"], &[0, 1]),
            (&["x: batch seq", "state: 2 ? 128"], &[0, 1]),
            (&["ids: batch seq", "mask: batch seq"], &[0, 0]),
            (&["ids: s0 s1", "mask: s0 s1"], &[0, 0]),
            (&["ids: 1 128", "mask: 1 128"], &[0, 0]),
            (&["x: 1 3 8 8", "scale: batch 10"], &[0, 0]),
            (&["ids: batch 4", "past: batch past 6"], &[0, 0]),
        ] {
            let want: Vec<Layout> = axes.iter().map(|&axis| Batch(axis)).collect();
            assert_eq!(guessed(inputs), want, "{inputs:?}");
        }
    }

    #[test]
    fn unclear_layouts_name_the_option_that_decides() {
        for (inputs, remedy) in [
            (&["x: N 6", "sr:"][..], "`fix` sr=VALUE"),
            (&["x: N 6", "anchors: 100 4"], "`batch-axis` anchors=none"),
            (&["x: N 6", "state: 2 ? ?"], "`batch-axis` state=AXIS"),
        ] {
            let [Layout::Batch(0), Layout::Unclear(why)] = &guessed(inputs)[..] else {
                panic!("{inputs:?}")
            };
            assert!(why.contains(remedy), "{why}");
        }
    }
}
