//! Control flow, and operators that pass their operand through.

use crate::error::Result;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::table::{Entry, rules};
use crate::tensor::DType;

pub(super) const ENTRIES: &[Entry] = &[
    rules("Dropout", 7, "nothing: dropout is off", dropout),
    rules("Identity", 7, "nothing", identity),
    rules("If", 7, "the branch taken; only where the condition is known at import", branch),
];

fn dropout(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.binding(0)?;
    if !c.wants_result(1) {
        return Ok(vec![x]);
    }
    let value = c.operand(0)?;
    let (shape, kept) = (c.shape(value), c.scalar(DType::Bool, 1.0));
    Ok(vec![x, c.expand(kept, &shape)?.into()])
}

fn identity(c: &mut Call) -> Result<Vec<Binding>> {
    let x = c.binding(0)?;
    Ok(vec![c.copy(x)])
}

fn branch(c: &mut Call) -> Result<Vec<Binding>> {
    let condition = c.tensor(0, "condition")?;
    let Some(condition) = condition.scalar() else {
        return Err(c.invalid("its condition is not one truth value"));
    };
    let graph = c.subgraph(if condition != 0.0 { "then_branch" } else { "else_branch" })?;
    c.lower_graph(graph)
}
