//! The lowering of operators, one family per file. Each file begins with the table of its operators.

mod activation;
mod attention;
mod choice;
mod constant;
mod control;
mod conv;
mod einsum;
mod elementwise;
mod embedding;
mod gather;
mod linear;
mod ml;
mod normalization;
mod pad;
mod pool;
mod recurrent;
mod reduce;
mod refused;
mod resize;
mod rotary;
mod sample;
mod scatter;
mod sequence;
mod shape;
mod signal;
mod slice;
mod softmax;
mod split;

use super::table::Entry;

/// The operators of all families.
pub(super) const FAMILIES: &[&[Entry]] = &[
    activation::ENTRIES,
    attention::ENTRIES,
    choice::ENTRIES,
    constant::ENTRIES,
    control::ENTRIES,
    conv::ENTRIES,
    einsum::ENTRIES,
    elementwise::ENTRIES,
    embedding::ENTRIES,
    gather::ENTRIES,
    linear::ENTRIES,
    ml::ENTRIES,
    normalization::ENTRIES,
    pad::ENTRIES,
    pool::ENTRIES,
    recurrent::ENTRIES,
    reduce::ENTRIES,
    refused::ENTRIES,
    resize::ENTRIES,
    rotary::ENTRIES,
    sample::ENTRIES,
    scatter::ENTRIES,
    sequence::ENTRIES,
    shape::ENTRIES,
    signal::ENTRIES,
    slice::ENTRIES,
    softmax::ENTRIES,
    split::ENTRIES,
];

/// The results of an operator that has only one.
fn one(value: crate::graph::Value) -> Vec<super::importer::Binding> {
    vec![value.into()]
}
