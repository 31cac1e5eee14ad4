//! Detects batch norms that were folded into the layer before them.
//!
//! At inference a batch norm is a product and a sum, which exporters and optimisers fold into the
//! weights of the layer before it. The folded network computes the same outputs but has other
//! parameters, gradients and scores. No operator marks it, but each tool leaves a trace in names or
//! metadata.

use crate::onnx::{Graph, Model, Node};

/// The tool that folded a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Tool {
    /// PyTorch's dynamo-based exporter, the default one.
    Dynamo,
    /// PyTorch's TorchScript-based exporter.
    TorchScript,
    /// tf2onnx, for TensorFlow and Keras.
    Tf2Onnx,
    /// ONNX Runtime, when it saves its optimised graph.
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

/// A warning, if batch norm was folded into layers of `model`.
pub(super) fn folded_batch_norm(model: &Model) -> Option<String> {
    let mut traces = Traces::new(model);
    traces.graph(&model.graph);
    model.functions.values().for_each(|function| traces.nodes(&function.nodes));
    let (tool, layers) = traces.found()?;
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

/// The traces found so far.
struct Traces<'m> {
    model: &'m Model,
    is_pytorch: bool,
    /// Whether parameters are named after modules, so that a number as a name was generated.
    has_module_names: bool,
    /// The number of folded layers by tool.
    found: Vec<(Tool, usize)>,
    layers: usize,
    batch_norms: usize,
}

impl<'m> Traces<'m> {
    fn new(model: &'m Model) -> Self {
        let names = model.graph.initializers.iter().map(|initializer| &initializer.name);
        let is_pytorch = model.producer.starts_with("pytorch");
        let has_module_names =
            is_pytorch && names.into_iter().any(|name| name.contains('.') && !name.contains("::"));
        Traces { model, is_pytorch, has_module_names, found: Vec::new(), layers: 0, batch_norms: 0 }
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

    /// The tool that folded the most layers, and the number of layers folded by any tool.
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

    /// The tool that folded a batch norm into this layer.
    fn tool_of(&self, node: &Node) -> Option<Tool> {
        if metadata_names_batch_norm(node) {
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
        // Parameters that an exporter did not change keep the names of modules.
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
        // A convolution has a single result. "getitem" is the first of several, that of a batch norm.
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

/// Whether it is the suffix by which PyTorch makes a repeated name unique: nothing, or `_12`.
fn is_counter(suffix: &str) -> bool {
    suffix.is_empty() || suffix.strip_prefix('_').is_some_and(is_number)
}

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the metadata of a layer's node name a batch norm: as the rule that rewrote the node, or as
/// the class of the module that it belongs to.
fn metadata_names_batch_norm(node: &Node) -> bool {
    node.metadata.iter().any(|(key, text)| match key.as_str() {
        "pkg.onnxscript.rewriter.rule_name" => text.contains("FuseBatchNorm"),
        "pkg.torch.onnx.class_hierarchy" => text.contains("torch.nn.modules.batchnorm."),
        _ => false,
    })
}

/// Whether a tensor of a layer has the name of a batch norm's result, which the layer replaced:
/// `/bn1/BatchNormalization_output_0`.
fn named_after_batch_norm(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.starts_with("BatchNormalization_") || last.starts_with("FusedBatchNorm")
}

#[cfg(test)]
mod tests;
