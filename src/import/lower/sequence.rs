//! Sequences and optional values. They exist only at import, where their elements are known.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::importer::Binding;
use crate::import::literal::Role;
use crate::import::table::{Entry, rule, rules, zero};
use crate::tensor::{DType, Tensor};

pub(super) const ENTRIES: &[Entry] = &[
    rule("ConcatFromSequence", 11, "Concat", concat_from_sequence),
    rules("Optional", 15, "nothing", |c| Ok(vec![c.binding(0)?])),
    rules("OptionalGetElement", 15, "nothing", |c| Ok(vec![c.binding(0)?])),
    zero("OptionalHasElement", 15, "a constant", optional_has_element),
    rules("SequenceAt", 11, "nothing", sequence_at),
    rules("SequenceConstruct", 11, "nothing", sequence_construct),
    rules("SequenceEmpty", 11, "nothing", |_| Ok(vec![Binding::List(Vec::new())])),
    rules("SequenceErase", 11, "nothing", sequence_erase),
    rules("SequenceInsert", 11, "nothing", sequence_insert),
    zero("SequenceLength", 11, "a constant", sequence_length),
];

fn list(c: &Call, i: usize) -> Result<Vec<Binding>> {
    match c.binding(i)? {
        Binding::List(elements) => Ok(elements),
        _ => Err(c.invalid(format_args!("operand {i} is not a sequence"))),
    }
}

/// The position in operand `i`, which must be below `len`; `default` if it is omitted.
fn position(c: &mut Call, i: usize, len: usize, default: usize) -> Result<usize> {
    if !c.has(i) {
        return Ok(default);
    }
    let given = c.known_int(i, "position")?;
    let position = if given < 0 { given + len as i64 } else { given };
    match usize::try_from(position) {
        Ok(p) if p <= default.max(len.saturating_sub(1)) => Ok(p),
        _ => Err(c.invalid(format_args!("position {given} in a sequence of {len}"))),
    }
}

fn sequence_construct(c: &mut Call) -> Result<Vec<Binding>> {
    let elements = (0..c.operands()).map(|i| c.binding(i)).collect::<Result<Vec<_>>>()?;
    Ok(vec![Binding::List(elements)])
}

fn sequence_at(c: &mut Call) -> Result<Vec<Binding>> {
    let elements = list(c, 0)?;
    let at = position(c, 1, elements.len(), 0)?;
    match elements.get(at) {
        Some(element) => Ok(vec![element.clone()]),
        None => Err(c.invalid("the sequence is empty")),
    }
}

fn sequence_insert(c: &mut Call) -> Result<Vec<Binding>> {
    let mut elements = list(c, 0)?;
    let at = position(c, 2, elements.len(), elements.len())?;
    elements.insert(at.min(elements.len()), c.binding(1)?);
    Ok(vec![Binding::List(elements)])
}

fn sequence_erase(c: &mut Call) -> Result<Vec<Binding>> {
    let mut elements = list(c, 0)?;
    let last = elements.len().saturating_sub(1);
    let at = position(c, 1, elements.len(), last)?;
    if at < elements.len() {
        elements.remove(at);
    }
    Ok(vec![Binding::List(elements)])
}

fn sequence_length(c: &mut Call) -> Result<Value> {
    let len = list(c, 0)?.len() as i64;
    Ok(c.constant(Tensor::index([len]).reshape(&[])?))
}

fn concat_from_sequence(c: &mut Call) -> Result<Value> {
    let elements = list(c, 0)?;
    let mut parts =
        elements.iter().map(|e| c.value_of(e, Role::Operand)).collect::<Result<Vec<_>>>()?;
    let Some(&first) = parts.first() else { return Err(c.invalid("the sequence is empty")) };
    let stack = c.flag("new_axis", false)?;
    let axis = c.axis(c.int("axis", 0)?, c.rank(first) + usize::from(stack))?;
    if stack {
        for part in &mut parts {
            let mut shape = c.shape(*part);
            shape.insert(axis, 1);
            *part = c.reshape(*part, &shape)?;
        }
    }
    c.concat(&parts, axis)
}

fn optional_has_element(c: &mut Call) -> Result<Value> {
    let has = c.has(0);
    Ok(c.scalar(DType::Bool, f64::from(u8::from(has))))
}
