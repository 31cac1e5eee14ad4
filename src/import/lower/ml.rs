//! The `ai.onnx.ml` operators that occur in neural networks exported from scikit-learn.

use super::gather::indices;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::literal::Role;
use crate::import::table::{Entry, ML, refused, rule, rules, zero};
use crate::ops::Unary;
use crate::tensor::{DType, Tensor};

const ATTRIBUTE_WEIGHTS: &str = "its coefficients are attributes, not tensors that can be trained";
const TREES: &str = "decision trees have no gradient";
const TEXT: &str = "it works on strings or maps, not on tensors";

pub(super) const ENTRIES: &[Entry] = &[
    rule("ArrayFeatureExtractor", 1, "Gather", array_feature_extractor).of(ML),
    zero("Binarizer", 1, "Greater", binarizer).of(ML),
    refused("CastMap", 1, TEXT).of(ML),
    refused("CategoryMapper", 1, TEXT).of(ML),
    refused("DictVectorizer", 1, TEXT).of(ML),
    rule("FeatureVectorizer", 1, "Concat", feature_vectorizer).of(ML),
    rule("Imputer", 1, "Where", imputer).of(ML),
    refused("LabelEncoder", 1, TEXT).of(ML),
    rules("LinearClassifier", 1, "MatMul, Add, its transform; the scores only", classifier).of(ML),
    rule("LinearRegressor", 1, "MatMul, Add, its transform", regressor).of(ML),
    rule("Normalizer", 1, "Abs, Mul, ReduceMax or ReduceSum, Div", normalizer).of(ML),
    refused("OneHotEncoder", 1, TEXT).of(ML),
    rule("Scaler", 1, "Sub, Mul", scaler).of(ML),
    refused("SVMClassifier", 1, ATTRIBUTE_WEIGHTS).of(ML),
    refused("SVMRegressor", 1, ATTRIBUTE_WEIGHTS).of(ML),
    refused("TreeEnsemble", 5, TREES).of(ML),
    refused("TreeEnsembleClassifier", 1, TREES).of(ML),
    refused("TreeEnsembleRegressor", 1, TREES).of(ML),
    rules("ZipMap", 1, "nothing: the probabilities themselves", |c| Ok(vec![c.binding(0)?])).of(ML),
];

/// Operand 0 as float32, and the length of its last axis.
fn features(c: &mut Call) -> Result<(Value, usize)> {
    let x = c.operand(0)?;
    let x = c.cast(x, DType::F32)?;
    match c.shape(x).last() {
        Some(&width) => Ok((x, width)),
        None => Err(c.invalid("a scalar has no features")),
    }
}

/// A constant row of `width` numbers. A single number is repeated.
fn row(c: &mut Call, values: &[f64], width: usize) -> Result<Value> {
    if values.len() != width && values.len() != 1 {
        return Err(c.invalid(format_args!("{} numbers for {width} features", values.len())));
    }
    let values = values.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let tensor = Tensor::f32(&[values.len()], values)?;
    Ok(c.constant(tensor))
}

fn array_feature_extractor(c: &mut Call) -> Result<Value> {
    let x = c.operand(0)?;
    let shape = c.shape(x);
    let Some((&size, lead)) = shape.split_last() else {
        return Err(c.invalid("a scalar has no features"));
    };
    let picked = indices(c, 1, size)?;
    let count = c.fact(picked).len();
    let picked = c.reshape(picked, &[count])?;
    let y = c.gather(x, picked, lead.len())?;
    // A vector counts as a matrix of one row.
    if lead.is_empty() { c.reshape(y, &[1, count]) } else { Ok(y) }
}

fn binarizer(c: &mut Call) -> Result<Value> {
    let threshold = c.float("threshold", 0.0)?;
    let (x, _) = features(c)?;
    let threshold = c.scalar_like(x, threshold);
    let above = c.greater(x, threshold)?;
    c.cast(above, DType::F32)
}

fn feature_vectorizer(c: &mut Call) -> Result<Value> {
    let mut parts = Vec::new();
    for i in 0..c.operands() {
        let x = c.operand(i)?;
        parts.push(c.cast(x, DType::F32)?);
    }
    c.concat(&parts, 1)
}

fn imputer(c: &mut Call) -> Result<Value> {
    let (x, width) = features(c)?;
    let Some(values) = c.floats("imputed_value_floats")? else {
        return Err(c.unsupported("only floating-point features can be filled in"));
    };
    let replaced = c.float("replaced_value_float", 0.0)?;
    let missing = if replaced.is_nan() {
        c.unary(Unary::IsNaN, x)?
    } else {
        let replaced = c.scalar_like(x, replaced);
        c.equal(x, replaced)?
    };
    let filler = row(c, &values, width)?;
    c.select(missing, filler, x)
}

fn normalizer(c: &mut Call) -> Result<Value> {
    let (x, _) = features(c)?;
    let last = [c.rank(x) - 1];
    let norm = match c.text("norm", "MAX")? {
        "MAX" => c.reduce_max(x, &last)?,
        "L1" => {
            let size = c.unary(Unary::Abs, x)?;
            c.reduce_sum(size, &last)?
        }
        "L2" => {
            let square = c.mul(x, x)?;
            let sum = c.reduce_sum(square, &last)?;
            c.sqrt(sum)?
        }
        other => return Err(c.invalid(format_args!("norm '{other}' is not defined"))),
    };
    c.div(x, norm)
}

/// `x·Wᵀ + b`, with `W` `[rows, features]` and `b` in attributes. They become parameters, named after
/// the node's result.
fn scores(c: &mut Call, weights: &str, rows: usize) -> Result<Value> {
    let (x, width) = features(c)?;
    let Some(weights) = c.floats(weights)? else {
        return Err(c.invalid("it has no coefficients"));
    };
    if rows == 0 || rows.checked_mul(width) != Some(weights.len()) {
        return Err(c.unsupported(format!(
            "{} coefficients are not one for each of {width} features and {rows} results",
            weights.len()
        )));
    }
    let single = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
    let weights = c.store_as(".coefficients", Tensor::f32(&[rows, width], single(weights))?);
    let weights = c.value_of(&weights, Role::Weight)?;
    let x = if c.rank(x) == 1 { c.reshape(x, &[1, width])? } else { x };
    let mut y = c.matmul_t(x, weights, false, true)?;
    if let Some(bias) = c.floats("intercepts")? {
        let len = bias.len();
        let bias = c.store_as(".intercepts", Tensor::f32(&[len], single(bias))?);
        let bias = c.value_of(&bias, Role::Weight)?;
        y = c.add(y, bias)?;
    }
    match c.text("post_transform", "NONE")? {
        "NONE" => Ok(y),
        "SOFTMAX" => c.softmax(y, 1),
        "LOGISTIC" => c.sigmoid(y),
        other => Err(c.unsupported(format!("the transform '{other}' is not supported"))),
    }
}

fn regressor(c: &mut Call) -> Result<Value> {
    let targets = usize::try_from(c.int("targets", 1)?).unwrap_or(0);
    scores(c, "coefficients", targets)
}

/// The first result, the predicted labels, is not supported. The second one is the scores.
fn classifier(c: &mut Call) -> Result<Vec<Binding>> {
    let ints = c.ints("classlabels_ints")?.map(|labels| labels.len());
    let classes = ints.or(c.strings("classlabels_strings")?.map(<[String]>::len)).unwrap_or(0);
    let y = scores(c, "coefficients", classes)?;
    Ok(vec![Binding::Absent("labels of classes are not computed; take the scores"), y.into()])
}

fn scaler(c: &mut Call) -> Result<Value> {
    let (mut x, width) = features(c)?;
    if let Some(offset) = c.floats("offset")? {
        let offset = row(c, &offset, width)?;
        x = c.sub(x, offset)?;
    }
    if let Some(scale) = c.floats("scale")? {
        let scale = row(c, &scale, width)?;
        x = c.mul(x, scale)?;
    }
    Ok(x)
}
