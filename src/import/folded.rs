//! Signs that batch norm was folded into the layers before it, so that the file holds another
//! network than was trained or is going to be.
//!
//! At inference a batch norm is a product and a sum, which exporters and optimisers like to multiply
//! into the weights. What is left computes the same and has other parameters, gradients and scores.
//! No operator says so, but each tool leaves a trace.

use crate::onnx::{Graph, Model, Node};

/// Who folded, as far as the file tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tool {
    /// PyTorch's dynamo-based exporter, which is its default one.
    Dynamo,
    /// PyTorch's TorchScript-based exporter.
    TorchScript,
    /// tf2onnx, for TensorFlow and Keras.
    Tf2Onnx,
    /// ONNX Runtime, where it writes the graph that it has optimised.
    OnnxRuntime,
    /// onnxsim, onnxslim and the like.
    Simplifier,
    /// Ultralytics' exporter, which folds before it exports.
    Ultralytics,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Dynamo | Tool::TorchScript => "PyTorch's exporter",
            Tool::Tf2Onnx => "tf2onnx",
            Tool::OnnxRuntime => "ONNX Runtime",
            Tool::Simplifier => "a simplifier",
            Tool::Ultralytics => "Ultralytics' exporter",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Tool::Dynamo => "export again with torch.onnx.export(…, optimize=False)",
            Tool::TorchScript => {
                "export again with training=torch.onnx.TrainingMode.PRESERVE and \
                 do_constant_folding=False"
            }
            Tool::Tf2Onnx => "export again without tf2onnx's optimiser 'remove_back_to_back'",
            Tool::OnnxRuntime => {
                "take the file that it was given, or one that it writes with all graph \
                 optimisations disabled"
            }
            Tool::Simplifier => "take the file from before it was simplified",
            Tool::Ultralytics => {
                "export the module by torch.onnx.export(…, optimize=False) instead"
            }
        }
    }
}

/// A warning where batch norm was folded into layers of `model`.
pub(super) fn folded_batch_norm(model: &Model) -> Option<String> {
    let mut signs = Signs::new(model);
    signs.graph(&model.graph);
    model.functions.values().for_each(|function| signs.nodes(&function.nodes));
    let (tool, layers) = signs.found()?;
    let layers = match layers {
        1 => "one layer".to_owned(),
        n => format!("{n} layers"),
    };
    Some(format!(
        "batch norm was folded into {layers} ({}, as the file shows), so the scores are those of \
         another network: {}",
        tool.name(),
        tool.remedy()
    ))
}

/// The signs found so far.
struct Signs<'m> {
    model: &'m Model,
    is_pytorch: bool,
    /// Whether other parameters have the names of modules, so that a number is a name made up.
    has_module_names: bool,
    /// The layers folded, by tool.
    found: Vec<(Tool, usize)>,
    layers: usize,
    batch_norms: usize,
}

impl<'m> Signs<'m> {
    fn new(model: &'m Model) -> Self {
        let names = model.graph.initializers.iter().map(|initializer| &initializer.name);
        let is_pytorch = model.producer.starts_with("pytorch");
        let has_module_names =
            is_pytorch && names.into_iter().any(|name| name.contains('.') && !name.contains("::"));
        Signs { model, is_pytorch, has_module_names, found: Vec::new(), layers: 0, batch_norms: 0 }
    }

    fn graph(&mut self, graph: &Graph) {
        self.nodes(&graph.nodes);
    }

    fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            node.subgraphs().for_each(|graph| self.graph(graph));
            match node.op.as_str() {
                "BatchNormalization" => self.batch_norms += 1,
                "Conv" | "ConvTranspose" | "FusedConv" | "Gemm" | "MatMul" | "FusedMatMul" => {
                    self.layers += 1;
                    if let Some(tool) = self.tool_of(node) {
                        match self.found.iter_mut().find(|(t, _)| *t == tool) {
                            Some((_, layers)) => *layers += 1,
                            None => self.found.push((tool, 1)),
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// The tool that folded most layers, and how many are folded in all.
    fn found(&self) -> Option<(Tool, usize)> {
        let author = |(key, value): &(String, String)| key == "author" && value == "Ultralytics";
        if self.found.is_empty()
            && self.batch_norms == 0
            && self.layers > 0
            && self.model.metadata.iter().any(author)
        {
            return Some((Tool::Ultralytics, self.layers));
        }
        let (tool, _) = self.found.iter().max_by_key(|(_, layers)| *layers)?;
        Some((*tool, self.found.iter().map(|(_, layers)| layers).sum()))
    }

    /// Who folded a batch norm into this layer.
    fn tool_of(&self, node: &Node) -> Option<Tool> {
        if says_so(node) {
            return Some(Tool::Dynamo);
        }
        let parameters = node.inputs.get(1..).unwrap_or_default();
        let any = |test: &dyn Fn(&str) -> bool| parameters.iter().any(|name| test(name));
        if any(&|name| name.contains("BnFusion_")) {
            return Some(Tool::OnnxRuntime);
        }
        if any(&|name| name.contains("_fused_bn")) {
            return Some(Tool::Tf2Onnx);
        }
        // Names of the exporter's own: what it has not touched, it calls after the modules.
        if let [weight, bias] = parameters {
            if self.is_pytorch
                && weight.ends_with("weight")
                && bias.strip_suffix("_bias") == Some(weight)
            {
                return Some(Tool::Dynamo);
            }
            let both = |test: &dyn Fn(&str) -> bool| test(weight) && test(bias);
            if both(&|name| name.starts_with("onnx::Conv"))
                || (self.has_module_names && both(&|name| is_number(name)))
            {
                return Some(Tool::TorchScript);
            }
            if both(&|name| name.strip_prefix("_v_").is_some_and(is_number)) {
                return Some(Tool::Simplifier);
            }
        }
        // A convolution has one result; that of a batch norm is the first of several.
        let result = node.outputs.first().map_or("", String::as_str);
        if self.is_pytorch
            && node.op.starts_with("Conv")
            && result.strip_prefix("getitem").is_some_and(is_counter)
        {
            return Some(Tool::Dynamo);
        }
        let after_batch_norm = any(&named_after_batch_norm) || named_after_batch_norm(result);
        after_batch_norm.then_some(Tool::Simplifier)
    }
}

/// Whether it is what PyTorch puts behind a name that it has given before: nothing, or `_12`.
fn is_counter(suffix: &str) -> bool {
    suffix.is_empty() || suffix.strip_prefix('_').is_some_and(is_number)
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the metadata of a layer's node speak of a batch norm: the rule that rewrote it, or the
/// class of the module that it belongs to.
fn says_so(node: &Node) -> bool {
    node.metadata.iter().any(|(key, text)| match key.as_str() {
        "pkg.onnxscript.rewriter.rule_name" => text.contains("FuseBatchNorm"),
        "pkg.torch.onnx.class_hierarchy" => text.contains("torch.nn.modules.batchnorm."),
        _ => false,
    })
}

/// Whether a layer's tensor is called after the operation of a batch norm, whose place the layer has
/// taken: `/bn1/BatchNormalization_output_0`.
fn named_after_batch_norm(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.starts_with("BatchNormalization_") || last.starts_with("FusedBatchNorm")
}

#[cfg(test)]
mod tests;
