//! Operators that are not supported, and why.

use crate::import::table::{Entry, MICROSOFT, refused};

const BITS: &str = "it works on the bits of integers; export the network without what works on \
                    bits, or take another output by `tensor`";
const CHOICE: &str = "the shape of its result depends on the values of its operand; take an output \
                      before it by `tensor`, or export the network without post-processing";
const FUSED: &str = "fused by an optimiser; use the model as exported, before optimisation";
const LOSS: &str = "the loss is added by gradalign; take the logits before it by `tensor`, or \
                    export the model without it";
const OPTIMISER: &str = "training graphs are not supported; export the model for inference";
const QUANTISED: &str = "it computes on quantised values";
const RANDOM: &str =
    "its result is random; export the model in inference mode (PyTorch: model.eval())";
const REGIONS: &str = "there is no gradient rule for it; take an output before it by `tensor`, or \
                       export the network without post-processing";
const RULE: &str = "there is no gradient rule for it";
const STATEFUL: &str = "it updates a state that is kept between calls";
const STRINGS: &str = "it works on strings; export the network without its pre-processing, and give \
                       it numbers";

pub(super) const ENTRIES: &[Entry] = &[
    refused("Bernoulli", 15, RANDOM),
    refused("BitCast", 26, BITS),
    refused("BitShift", 11, BITS),
    refused("BitwiseAnd", 18, BITS),
    refused("BitwiseNot", 18, BITS),
    refused("BitwiseOr", 18, BITS),
    refused("BitwiseXor", 18, BITS),
    refused("CausalConvWithState", 27, STATEFUL),
    refused("ConvInteger", 10, QUANTISED),
    refused("DequantizeLinear", 10, QUANTISED),
    refused("Det", 11, RULE),
    refused("DynamicQuantizeLinear", 11, QUANTISED),
    refused("ImageDecoder", 20, STRINGS),
    refused("LinearAttention", 27, STATEFUL),
    refused("MatMulInteger", 10, QUANTISED),
    refused("MaxRoiPool", 7, REGIONS),
    refused("Multinomial", 7, RANDOM),
    refused("NegativeLogLikelihoodLoss", 12, LOSS),
    refused("NonMaxSuppression", 10, CHOICE),
    refused("QLinearConv", 10, QUANTISED),
    refused("QLinearMatMul", 10, QUANTISED),
    refused("QuantizeLinear", 10, QUANTISED),
    refused("RandomNormal", 7, RANDOM),
    refused("RandomNormalLike", 7, RANDOM),
    refused("RandomUniform", 7, RANDOM),
    refused("RandomUniformLike", 7, RANDOM),
    refused("RegexFullMatch", 20, STRINGS),
    refused("SoftmaxCrossEntropyLoss", 12, LOSS),
    refused("StringConcat", 20, STRINGS),
    refused("StringNormalizer", 10, STRINGS),
    refused("StringSplit", 20, STRINGS),
    refused("TensorScatter", 24, STATEFUL),
    refused("TfIdfVectorizer", 9, STRINGS),
    refused("Unique", 11, CHOICE),
    refused("Adagrad", 1, OPTIMISER).of("ai.onnx.preview.training"),
    refused("Adam", 1, OPTIMISER).of("ai.onnx.preview.training"),
    refused("Gradient", 1, OPTIMISER).of("ai.onnx.preview.training"),
    refused("Momentum", 1, OPTIMISER).of("ai.onnx.preview.training"),
    refused("GroupNorm", 1, FUSED).of(MICROSOFT),
    refused("GroupQueryAttention", 1, FUSED).of(MICROSOFT),
    refused("NhwcConv", 1, FUSED).of(MICROSOFT),
    refused("PackedAttention", 1, FUSED).of(MICROSOFT),
    refused("SkipGroupNorm", 1, FUSED).of(MICROSOFT),
];
