//! Choosing the largest elements.

use super::gather::elements;
use crate::error::Result;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules};
use crate::ops::TopK;

pub(super) const ENTRIES: &[Entry] =
    &[rules("TopK", 7, "TopK for the places, Gather; always sorted", top_k)];

fn top_k(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.operand(0)?;
    let axis = c.axis(c.int("axis", -1)?, c.rank(x))?;
    let count = match c.optional_int("k")? {
        Some(count) => count,
        None => c.known_int(1, "number of elements")?,
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let size = c.shape(x)[axis];
    if count > size {
        return Err(c.invalid(format_args!("{count} elements of {size}")));
    }
    let largest = c.flag("largest", true)?;
    let at = c.push(TopK { axis, count, largest }, &[x])?;
    Ok(vec![elements(c, x, at, axis)?.into(), at.into()])
}
