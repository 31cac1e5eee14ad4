//! Operators of classical machine learning, as far as neural networks exported from scikit-learn
//! need them.

use super::gather::indices;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
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
    refused("LinearClassifier", 1, ATTRIBUTE_WEIGHTS).of(ML),
    refused("LinearRegressor", 1, ATTRIBUTE_WEIGHTS).of(ML),
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

/// The last axis of operand 0, as float32.
fn features(c: &mut Call) -> Result<(Value, usize)> {
    let x = c.operand(0)?;
    let x = c.cast(x, DType::F32)?;
    match c.shape(x).last() {
        Some(&width) => Ok((x, width)),
        None => Err(c.invalid("a scalar has no features")),
    }
}

/// A constant row of `width` numbers; one number stands for all of them.
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
