//! Importing as far as possible to list every problem, not only the first.

use super::{Binding, Importer, UNKNOWN};
use crate::error::{Error, Result};
use crate::import::scan::Problem;
use crate::onnx::Node;

impl<'m> Importer<'m> {
    /// Lowers the nodes that `output` depends on as far as possible and returns all problems.
    pub fn survey(mut self, output: &'m str) -> Vec<Problem> {
        self.survey = Some(Vec::new());
        let result = self.run(output);
        let mut problems = self.survey.take().unwrap_or_default();
        match result {
            Err(error) if problems.is_empty() => problems.push(Problem::general(&error)),
            _ => {}
        }
        problems
    }

    /// Records a problem if all are being collected. Otherwise returns it as the error that ends the
    /// import.
    pub(super) fn record(&mut self, node: &str, op: &str, opset: i64, error: Error) -> Result<()> {
        let Some(problems) = &mut self.survey else { return Err(error) };
        problems.push(match error {
            Error::UnsupportedOp { node, op, opset, reason } => Problem { node, op, opset, reason },
            other => {
                let (node, op) = (node.to_owned(), op.to_owned());
                Problem { node, op, opset, reason: other.to_string() }
            }
        });
        Ok(())
    }

    /// Placeholders for the results of a node that could not be lowered. Where the file declares the
    /// shape of a result, a new input stands for it, so that the nodes after it are checked too.
    pub(super) fn placeholders(&mut self, node: &'m Node, error: Error) -> Result<Vec<Binding>> {
        let opset = self.opset(node)?;
        self.record(node.label(), &node.full_op(), opset, error)?;
        let graph = &self.model.graph;
        let declared = self.declared.get_or_init(|| {
            let values = graph.outputs.iter().chain(&graph.values);
            values.map(|info| (info.name.as_str(), info)).filter(|(n, _)| !n.is_empty()).collect()
        });
        let outermost = self.is_outermost();
        let mut outputs = Vec::with_capacity(node.outputs.len());
        for name in &node.outputs {
            let info = declared.get(name.as_str()).filter(|_| outermost);
            let fact = info.and_then(|info| self.shapes.intermediate(info));
            outputs.push(match fact {
                Some(fact) => self.b.input(name.as_str(), fact).into(),
                None => Binding::Absent(UNKNOWN),
            });
        }
        Ok(outputs)
    }
}
