//! Writing a map as a node, its description in attributes.

use super::Fusion;
use super::draft::Draft;
use super::placement::values;
use crate::emit::ModelWriter;
use crate::engine::ort::operators::DOMAIN;
use crate::graph::Value;
use crate::kernel::{FusedMap, OutputLayout, Source};
use crate::ops::{Attr, Writer};

/// So many of those that read a value are looked at for what can be written together with another:
/// with all of them, a value that everything reads would be looked at by everything.
const MOST_READERS: usize = 256;

impl Fusion {
    /// Writes `value` and, from the same pass over the operands, whatever else can be had of them.
    pub(in crate::engine::ort) fn write(&self, w: &mut ModelWriter, value: Value) {
        let graph = w.graph();
        let mut draft = Draft::new(graph, &self.placements, values(graph, value));
        draft.write(value);
        let mut next = 0;
        // Operands and results alike may be read by others.
        while let Some(&read) = draft.operands.iter().chain(&draft.outputs).nth(next) {
            next += 1;
            let readers = self.readers.get(&read).map_or(&[][..], Vec::as_slice);
            // They are in graph order.
            let later = &readers[readers.partition_point(|&other| other <= value)..];
            for &other in later.iter().take(MOST_READERS) {
                let is_written = |v: Value| w.is_named(v);
                if !is_written(other)
                    && !draft.outputs.contains(&other)
                    && draft.fits(other, &self.reads[&other], is_written)
                {
                    draft.write(other);
                }
            }
        }
        let Draft { map, operands, outputs, .. } = draft;
        let names: Vec<String> = operands.iter().map(|&v| w.name(v)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let shape = |v: &Value| self.shapes.get(v).map_or(graph.shape(*v), Vec::as_slice);
        let shapes: Vec<&[usize]> = outputs.iter().map(shape).collect();
        let written =
            w.nodes_of(Some(DOMAIN), "Map", &names, outputs.len(), &attributes(&map, &shapes));
        for (output, name) in outputs.iter().zip(written) {
            w.set_name(*output, name);
        }
    }
}

/// A map as attributes: lists of lists are flat, each with its length before it.
fn attributes(map: &FusedMap, shapes_of: &[&[usize]]) -> Vec<(&'static str, Attr)> {
    let number = |source: Source| match source {
        Source::Operand(i) => 4 * i,
        Source::Constant(i) => 4 * i + 1,
        Source::Step(i) => 4 * i + 2,
        Source::Sum(i) => 4 * i + 3,
    };
    let (mut views, mut steps, mut results, mut shapes) = (vec![], vec![], vec![], vec![]);
    for view in &map.views {
        views.push(view.len());
        views.extend(view.iter().flat_map(|axis| [axis.length, axis.stride]));
    }
    for step in &map.steps {
        steps.push(step.op as usize);
        steps.extend(step.arguments.map(number));
    }
    let mut factors = Vec::new();
    for (output, &shape) in map.outputs.iter().zip(shapes_of) {
        results.push(number(output.source));
        match output.layout {
            OutputLayout::Whole => results.extend([0; 3]),
            OutputLayout::Row { length } => results.extend([map.len / length, length, 0]),
            OutputLayout::Sum { blocks, scale } => {
                results.extend([blocks.outer, blocks.length, blocks.inner]);
                factors.push(scale);
            }
        }
        shapes.push(shape.len());
        shapes.extend(shape);
    }
    vec![
        ("len", Attr::Int(map.len as i64)),
        ("views", Attr::from(views.as_slice())),
        ("truths", Attr::from(map.truths.as_slice())),
        ("constants", Attr::Floats(map.constants.clone())),
        ("steps", Attr::from(steps.as_slice())),
        ("results", Attr::from(results.as_slice())),
        ("factors", Attr::Floats(factors)),
        ("shapes", Attr::from(shapes.as_slice())),
    ]
}
