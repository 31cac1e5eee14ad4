//! The embedding layer of a transformer as one operator of ONNX Runtime.

use super::gather::indices;
use super::normalization::layer_normalised;
use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, MICROSOFT, rules};
use crate::tensor::DType;

pub(super) const ENTRIES: &[Entry] =
    &[rules("EmbedLayerNormalization", 1, "Gather, Add, ReduceMean, Sqrt, Div", embed)
        .of(MICROSOFT)];

/// Looks up rows of the table in operand `table` by the indices `[batch, positions]` in operand `at`.
/// Returns the indices and the rows.
fn embedded(c: &mut Call, table: usize, at: usize) -> Result<(Value, Value)> {
    let table = c.weight(table)?;
    let rows = c.shape(table).first().copied().unwrap_or(0);
    let at = indices(c, at, rows)?;
    if c.rank(table) != 2 || c.rank(at) != 2 {
        return Err(c.invalid("a table of embeddings or its indices are no matrices"));
    }
    Ok((at, c.gather(table, at, 0)?))
}

/// The layer norm of the sum of word, position and segment embeddings.
fn embed(c: &mut Call) -> Result<Vec<Binding>> {
    let (ids, mut sum) = embedded(c, 2, 0)?;
    let positions = if c.has(8) {
        embedded(c, 3, 8)?.1
    } else {
        let table = c.weight(3)?;
        let count = c.shape(ids).last().copied().unwrap_or(0);
        c.slice_axis(table, 0, 0, count, 1)?
    };
    sum = c.add(sum, positions)?;
    if c.has(1) && c.has(4) {
        let segments = embedded(c, 4, 1)?.1;
        sum = c.add(sum, segments)?;
    }
    let epsilon = c.float("epsilon", 1e-12)?;
    let last = [c.rank(sum) - 1];
    let normal = layer_normalised(c, sum, &last, epsilon)?;
    let (gamma, beta) = (c.weight(5)?, c.weight(6)?);
    let scaled = c.mul(normal, gamma)?;
    let y = c.add(scaled, beta)?;
    // The second result: the number of unmasked positions, or 0 without a mask.
    let shape = c.shape(ids);
    let count = if c.has(7) {
        let mask = c.fixed(7)?;
        let mask = c.cast(mask, DType::I32)?;
        let last = c.axis(-1, c.rank(mask))?;
        let count = c.reduce_sum(mask, &[last])?;
        c.reshape(count, &shape[..1])?
    } else {
        let zero = c.scalar(DType::I32, 0.0);
        c.expand(zero, &shape[..1])?
    };
    Ok(vec![y.into(), count.into(), sum.into()])
}
