//! Which rectifiers are active for which samples: NASWOT and TE-NAS's linear regions compare these
//! patterns.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::graph::{RectifierKind, Value};
use crate::probe::Network;
use crate::tensor::DType;

/// Float32 counts exactly up to here.
const EXACT: usize = 1 << 24;

/// `[N, N]`, in float64: in how many rectifier units two samples agree, both active (input above 0)
/// or both not; on the diagonal the number of units. A rectifier that the model applies several
/// times to one value counts as often.
///
/// # Errors
/// When the output depends on no rectifier.
pub(super) fn agreement(network: &mut Network) -> Result<Value> {
    let rectifiers = network.rectifiers().to_vec();
    if rectifiers.is_empty() {
        return Err(Error::Score(
            "the output depends on no rectifier (Relu, Relu6, LeakyRelu, PRelu), whose activation \
             patterns this score compares"
                .into(),
        ));
    }
    let mut kinds: BTreeMap<RectifierKind, usize> = BTreeMap::new();
    for rectifier in &rectifiers {
        *kinds.entry(rectifier.kind).or_default() += rectifier.copies;
    }
    if kinds.keys().any(|kind| *kind != RectifierKind::Relu) {
        let counts: Vec<_> = kinds.iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        network.warn(format!(
            "activation patterns are those of {}, by the sign of their input",
            counts.join(", ")
        ));
    }
    let lanes = network.lanes();
    let b = network.builder();
    let mut terms = Vec::new();
    for rectifier in &rectifiers {
        let width = b.fact(rectifier.input).len() / lanes;
        let rows = b.reshape(rectifier.input, &[lanes, width])?;
        let zero = b.scalar_like(rows, 0.0);
        let active = b.greater(rows, zero)?;
        let (one, minus_one) = (b.scalar_like(rows, 1.0), b.scalar_like(rows, -1.0));
        let signs = b.select(active, one, minus_one)?;
        for start in (0..width).step_by(EXACT) {
            let end = width.min(start + EXACT);
            let part = b.slice_axis(signs, 1, start, end, 1)?;
            // Agreements minus disagreements.
            let product = b.matmul_t(part, part, false, true)?;
            let product = b.cast(product, DType::F64)?;
            let sum = b.shift(product, (end - start) as f64)?;
            terms.push(b.scale(sum, 0.5 * rectifier.copies as f64)?);
        }
    }
    let mut total = terms[0];
    for &term in &terms[1..] {
        total = b.add(total, term)?;
    }
    Ok(total)
}
