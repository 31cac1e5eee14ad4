//! Lowering, one family of operators a file. Each file lists its operators in a table and
//! lowers them below it.

mod activation;
mod attention;
mod choice;
mod constant;
mod control;
mod conv;
mod einsum;
mod elementwise;
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
    sample::ENTRIES,
    scatter::ENTRIES,
    sequence::ENTRIES,
    shape::ENTRIES,
    signal::ENTRIES,
    slice::ENTRIES,
    softmax::ENTRIES,
    split::ENTRIES,
];

/// The results of an operator with one value and no others.
fn one(value: crate::graph::Value) -> Vec<super::importer::Binding> {
    vec![value.into()]
}
