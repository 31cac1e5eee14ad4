//! Importing a network: one output, a batch of one sample.

use super::{Binding, Importer, UNKNOWN};
use crate::error::{Error, Result};
use crate::graph::Value;
use crate::import::batch::{BatchCheck, RecordedShapes};
use crate::import::literal::Role;
use crate::import::scan::live_nodes;
use crate::import::{Imported, Info, bounds, final_activation, folded, ties};
use crate::onnx::ValueInfo;

impl<'m> Importer<'m> {
    /// Lowers all nodes that `output` depends on and returns its value.
    pub fn run(&mut self, output: &'m str) -> Result<Value> {
        let model = self.model;
        self.bind_initializers(&model.graph.initializers);
        let (_, needed) = live_nodes(&model.graph.nodes, [output]);
        for info in self.shapes.declared() {
            if needed.contains(info.name.as_str()) {
                let binding = match self.declared_input(info) {
                    Ok(value) => value.into(),
                    Err(error) => {
                        self.record(&info.name, "", 0, error)?;
                        Binding::Absent(UNKNOWN)
                    }
                };
                self.bind(&info.name, binding);
            }
        }
        self.lower_nodes(&model.graph.nodes, &[output])?;
        let binding = self.resolve(output).cloned();
        match binding {
            Some(Binding::Value(value)) => Ok(value),
            Some(Binding::Stored(i)) => self.stored_value(i, Role::Operand),
            Some(Binding::List(_)) => Err(Error::UnsupportedModel(format!(
                "{}: the output '{output}' is a sequence; choose another",
                model.source
            ))),
            Some(Binding::Absent(why)) => Err(Error::UnsupportedModel(format!(
                "{}: the output '{output}' cannot be taken: {why}",
                model.source
            ))),
            None => Err(self.undefined(output)),
        }
    }

    /// The value of an input of the model, in the shape of the file. The input of the graph has the
    /// batch axis first, so a reshape lies between the two. An input with a fixed value is a constant.
    fn declared_input(&mut self, info: &'m ValueInfo) -> Result<Value> {
        let name = &info.name;
        if let Some(setting) = self.shapes.fixed_value(info)? {
            self.notes.push(format!("input '{name}' is a setting, with the value given"));
            return Ok(self.b.constant(setting));
        }
        let (fact, shape) = self.shapes.input(info)?;
        let axis = self.shapes.known_batch_axis(name).flatten();
        match axis {
            Some(0) => {}
            Some(axis) => self.notes.push(format!("axis {axis} of input '{name}' is the batch")),
            None => self.notes.push(format!("input '{name}' has no batch axis")),
        }
        self.batch_axes.push(axis);
        let input = self.b.input(info.name.as_str(), fact);
        let value = self.b.reshape(input, &shape)?;
        let in_file = self.shapes.shape_in_file(info, &shape);
        self.batch_check.input(&self.b, input, value, &in_file).map_err(Error::Shape)?;
        Ok(value)
    }

    /// Lowers the nodes that `output` depends on and returns the shapes of their results. Used at the
    /// batch size that the file fixes.
    pub fn record_shapes(mut self, output: &'m str) -> Result<RecordedShapes<'m>> {
        self.batch_check = BatchCheck::Recording(RecordedShapes::default());
        self.run(output)?;
        match self.batch_check {
            BatchCheck::Recording(shapes) => Ok(shapes),
            _ => Ok(RecordedShapes::default()),
        }
    }

    /// From now on, compares each result with its shape at the batch size that the file fixes.
    pub fn compare_with(&mut self, shapes: RecordedShapes<'m>) {
        if let Some(batch) = self.fixed_batch() {
            self.batch_check = shapes.into_check(batch);
        }
    }

    /// Ends the import. `value` becomes the only output of the graph, under the name `output`.
    pub fn finish(mut self, output: &str, value: Value) -> Result<Imported> {
        if let Some(k) = self.fixed_batch() {
            self.notes.push(format!("the file fixes the batch at {k}; it is taken at 1"));
        }
        self.warnings.extend(folded::folded_batch_norm(self.model));
        self.b.set_scope("");
        let (logits, final_activation) = match self.keeps_activation {
            true => (value, None),
            false => final_activation::split_activation(&mut self.b, value)?,
        };
        if !self.keeps_activation
            && final_activation.is_none()
            && bounds(self.b.graph(), logits).is_probability()
        {
            self.warnings.push(format!(
                "the output '{output}' always lies between 0 and 1, so it is probabilities, which \
                 are taken for logits here since the activation that makes them is not recognised: \
                 take what goes into it, by `tensor` NAME"
            ));
        }
        let logits = self.batch_first(logits)?;
        self.b.output(output, logits);
        let graph = self.b.finish().pruned();
        let (graph, tied) = ties::tie(graph, |name| self.provenance.owner(name))?;
        self.notes.extend(tied);
        Ok(Imported {
            graph,
            output: output.to_owned(),
            batch_axes: self.batch_axes,
            final_activation,
            batch_norms: self.batch_norms,
            warnings: self.warnings,
            notes: self.notes,
            info: Info {
                ir_version: self.model.ir_version,
                producer: self.model.producer.clone(),
                opsets: self.model.opsets.clone(),
                operators: self.operators,
            },
        })
    }

    /// Moves the batch axis of the output, of length 1, to the front. Where several axes have length 1,
    /// any of them will do: the result has the same shape and the same elements in order.
    fn batch_first(&mut self, output: Value) -> Result<Value> {
        let shape = self.b.shape(output);
        let unit = shape.iter().position(|&d| d == 1).filter(|_| self.shapes.has_batch());
        let mut sample = shape;
        match unit {
            Some(0) => return Ok(output),
            Some(axis) => {
                sample.remove(axis);
                self.notes.push(format!("axis {axis} of the output is taken for the batch"));
            }
            None => {}
        }
        self.b.reshape(output, &[&[1], sample.as_slice()].concat())
    }
}
