//! Control flow, and operators that return their operand.
//!
//! Loops are unrolled, so the number of iterations must be known at import.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::{Call, MAX_UNROLLED};
use crate::import::importer::Binding;
use crate::import::literal::Role;
use crate::import::table::{Entry, rules};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rules("Dropout", 7, "nothing: dropout is off", dropout),
    rules("Identity", 7, "nothing", identity),
    rules("If", 7, "the branch taken; Where between both if that depends on the data", branch),
    rules("Loop", 7, "its body, unrolled; the number of iterations must be known at import", loops),
    rules("Scan", 8, "its body, unrolled; from opset 9", scan),
    rules("SequenceMap", 17, "its body, unrolled", sequence_map),
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
    let (yes, no) = (c.subgraph("then_branch")?, c.subgraph("else_branch")?);
    if let Some(condition) = c.known(0)? {
        let Some(condition) = condition.scalar() else {
            return Err(c.invalid("its condition is not one truth value"));
        };
        return c.lower_graph(if condition != 0.0 { yes } else { no });
    }
    let condition = c.fixed(0)?;
    let condition = c.reshape(condition, &[])?;
    let (yes, no) = (c.lower_graph(yes)?, c.lower_graph(no)?);
    let mut results = Vec::with_capacity(yes.len());
    for (yes, no) in yes.iter().zip(&no) {
        let (yes, no) = (c.value_of(yes, Role::Table)?, c.value_of(no, Role::Table)?);
        if c.fact(yes) != c.fact(no) {
            let (yes, no) = (c.fact(yes).clone(), c.fact(no).clone());
            return Err(c.unsupported(format!(
                "its condition depends on the data, and so does the shape of its result: {yes} or \
                 {no}"
            )));
        }
        results.push(c.select(condition, yes, no)?.into());
    }
    Ok(results)
}

/// Stacks the values of consecutive iterations along a new axis, in reverse order if `reverse`.
fn stacked(c: &mut Call, mut values: Vec<Binding>, axis: i64, reverse: bool) -> Result<Value> {
    if reverse {
        values.reverse();
    }
    let mut parts = Vec::with_capacity(values.len());
    let mut at = 0;
    for value in &values {
        let value = c.value_of(value, Role::Operand)?;
        let mut shape = c.shape(value);
        at = c.axis(axis, shape.len() + 1)?;
        shape.insert(at, 1);
        parts.push(c.reshape(value, &shape)?);
    }
    if parts.is_empty() {
        return Err(c.unsupported("a loop that collects results but never turns"));
    }
    c.concat(&parts, at)
}

fn loops(c: &mut Call) -> Result<Vec<Binding>> {
    const STATIC: &str = "how often it turns depends on the model's inputs; export the model with \
                          its loops unrolled";
    let body = c.subgraph("body")?;
    let limit = if c.has(0) {
        match c.known(0)?.and_then(|t| t.scalar()) {
            Some(limit) => Some(limit.max(0.0) as usize),
            None => return Err(c.unsupported(STATIC)),
        }
    } else {
        None
    };
    let mut go = if c.has(1) { c.binding(1)? } else { c.scalar(DType::Bool, 1.0).into() };
    let mut carried = (2..c.operands()).map(|i| c.binding(i)).collect::<Result<Vec<_>>>()?;
    let collected = body.outputs.len().saturating_sub(1 + carried.len());
    let mut collections = vec![Vec::new(); collected];
    let mut turn = 0;
    loop {
        if limit.is_some_and(|limit| turn >= limit) {
            break;
        }
        match c.known_of(&go)?.and_then(|t| t.scalar()) {
            Some(0.0) => break,
            Some(_) => {}
            None => return Err(c.unsupported(STATIC)),
        }
        if turn >= MAX_UNROLLED {
            return Err(c.unsupported(format!("it turns more than {MAX_UNROLLED} times")));
        }
        let number = c.constant(Tensor::index([turn as i64]).reshape(&[])?);
        let inputs = [number.into(), go].into_iter().chain(carried).collect();
        let mut outputs = c.lower_iteration(body, inputs)?.into_iter();
        go = match outputs.next() {
            Some(go) => go,
            None => return Err(c.invalid("its body has no outputs")),
        };
        carried = outputs.by_ref().take(c.operands().saturating_sub(2)).collect();
        collections.iter_mut().zip(outputs).for_each(|(all, one)| all.push(one));
        turn += 1;
    }
    for all in collections {
        carried.push(stacked(c, all, 0, false)?.into());
    }
    Ok(carried)
}

fn scan(c: &mut Call) -> Result<Vec<Binding>> {
    if c.opset < 9 {
        return Err(c.unsupported("its form in opset 8 is not supported; export with opset 9"));
    }
    let body = c.subgraph("body")?;
    let scanned = usize::try_from(c.int("num_scan_inputs", 0)?).unwrap_or(0);
    let Some(kept) = c.operands().checked_sub(scanned).filter(|_| scanned > 0) else {
        return Err(c.invalid(format_args!("{scanned} of {} operands are scanned", c.operands())));
    };
    let list = |c: &Call, name: &str, len: usize| -> Result<Vec<i64>> {
        let values = c.ints(name)?.unwrap_or_else(|| vec![0; len]);
        match values.len() == len {
            true => Ok(values),
            false => Err(c.invalid(format_args!("{name} {values:?} for {len} values"))),
        }
    };
    let collected = body.outputs.len().saturating_sub(kept);
    let axes = list(c, "scan_input_axes", scanned)?;
    let backwards = list(c, "scan_input_directions", scanned)?;
    let out_axes = list(c, "scan_output_axes", collected)?;
    let out_backwards = list(c, "scan_output_directions", collected)?;
    let mut sources = Vec::with_capacity(scanned);
    let mut steps = None;
    for (i, &axis) in axes.iter().enumerate() {
        let x = c.operand(kept + i)?;
        let axis = c.axis(axis, c.rank(x))?;
        let size = c.shape(x)[axis];
        if *steps.get_or_insert(size) != size {
            return Err(c.invalid("what is scanned differs in length"));
        }
        sources.push((x, axis));
    }
    let steps = steps.unwrap_or(0);
    if steps > MAX_UNROLLED {
        return Err(c.unsupported(format!("it takes more than {MAX_UNROLLED} steps")));
    }
    let mut carried = (0..kept).map(|i| c.binding(i)).collect::<Result<Vec<_>>>()?;
    let mut collections = vec![Vec::new(); collected];
    for step in 0..steps {
        let mut inputs = carried;
        for (&(x, axis), &backwards) in sources.iter().zip(&backwards) {
            let at = if backwards == 0 { step } else { steps - 1 - step };
            let part = c.slice_axis(x, axis, at, at + 1, 1)?;
            let mut shape = c.shape(part);
            shape.remove(axis);
            inputs.push(c.reshape(part, &shape)?.into());
        }
        let mut outputs = c.lower_iteration(body, inputs)?.into_iter();
        carried = outputs.by_ref().take(kept).collect();
        collections.iter_mut().zip(outputs).for_each(|(all, one)| all.push(one));
    }
    for (all, (&axis, &backwards)) in
        collections.into_iter().zip(out_axes.iter().zip(&out_backwards))
    {
        carried.push(stacked(c, all, axis, backwards != 0)?.into());
    }
    Ok(carried)
}

fn sequence_map(c: &mut Call) -> Result<Vec<Binding>> {
    let body = c.subgraph("body")?;
    let operands = (0..c.operands()).map(|i| c.binding(i)).collect::<Result<Vec<_>>>()?;
    let Some(Binding::List(first)) = operands.first() else {
        return Err(c.invalid("operand 0 is not a sequence"));
    };
    let count = first.len();
    let mut results = vec![Vec::with_capacity(count); body.outputs.len()];
    for i in 0..count {
        let mut inputs = Vec::with_capacity(operands.len());
        for operand in &operands {
            inputs.push(match operand {
                Binding::List(elements) => match elements.get(i) {
                    Some(element) => element.clone(),
                    None => return Err(c.invalid("its sequences differ in length")),
                },
                other => other.clone(),
            });
        }
        let outputs = c.lower_iteration(body, inputs)?;
        results.iter_mut().zip(outputs).for_each(|(all, one)| all.push(one));
    }
    Ok(results.into_iter().map(Binding::List).collect())
}
