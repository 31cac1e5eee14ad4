//! Einstein summation, by transpositions, sums and matrix products.

use crate::error::Result;
use crate::graph::Value;
use crate::import::call::Call;
use crate::import::table::{Entry, rule};
use crate::tensor::Tensor;

pub(super) const ENTRIES: &[Entry] = &[rule(
    "Einsum",
    12,
    "Transpose, Reshape, ReduceSum, MatMul, Mul; Gather for diagonals",
    einsum,
)];

/// The label of an axis. Axes of an ellipsis are numbered from the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Hidden(usize),
    Letter(char),
}

/// A tensor with named axes.
#[derive(Clone, Debug)]
struct Term {
    value: Value,
    labels: Vec<Label>,
}

impl Term {
    fn has(&self, label: Label) -> bool {
        self.labels.contains(&label)
    }
}

fn einsum(c: &mut Call) -> Result<Value> {
    let equation: String = c.text("equation", "")?.chars().filter(|ch| *ch != ' ').collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != c.operands() {
        let count = c.operands();
        return Err(c.invalid(format_args!("'{equation}' is not about {count} operands")));
    }
    let mut terms = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let value = c.weight(i)?;
        let labels = labels(c, text, c.rank(value))?;
        terms.push(diagonal(c, Term { value, labels })?);
    }
    let hidden = terms.iter().flat_map(|t| &t.labels).filter(|l| matches!(l, Label::Hidden(_)));
    let hidden =
        hidden.map(|l| if let Label::Hidden(i) = l { i + 1 } else { 0 }).max().unwrap_or(0);
    let wanted = match right {
        Some(text) => {
            let letters = text.chars().filter(|ch| *ch != '.').count();
            let ellipsis = if text.contains("...") { hidden } else { 0 };
            let wanted = labels(c, text, letters + ellipsis)?;
            if repeated(&wanted).is_some() {
                return Err(c.unsupported(format!("'{equation}' makes a diagonal")));
            }
            wanted
        }
        None => implicit(&terms, hidden),
    };
    let mut terms = terms.into_iter();
    let Some(mut result) = terms.next() else { return Err(c.invalid("there are no operands")) };
    let mut rest: Vec<Term> = terms.collect();
    result = sum_unused(c, result, &wanted, &rest)?;
    while !rest.is_empty() {
        let next = rest.remove(0);
        let next = sum_unused(c, next, &[&wanted[..], &result.labels].concat(), &rest)?;
        result = contract(c, result, next, &wanted, &rest)?;
    }
    if let Some(label) = wanted.iter().find(|&&l| !result.has(l)) {
        return Err(c.invalid(format_args!("'{equation}': {label:?} is in no operand")));
    }
    arrange(c, &result, &wanted)
}

/// The labels of the `rank` axes of a term.
fn labels(c: &Call, text: &str, rank: usize) -> Result<Vec<Label>> {
    let mut labels = Vec::new();
    let letters = |part: &str| part.chars().map(Label::Letter).collect::<Vec<_>>();
    match text.split_once("...") {
        Some((before, after)) => {
            let named = before.chars().count() + after.chars().count();
            let Some(hidden) = rank.checked_sub(named) else {
                return Err(c.invalid(format_args!("'{text}' does not name {rank} axes")));
            };
            labels.extend(letters(before));
            labels.extend((0..hidden).rev().map(Label::Hidden));
            labels.extend(letters(after));
        }
        None => labels.extend(letters(text)),
    }
    let is_letter = |l: &Label| !matches!(l, Label::Letter(ch) if !ch.is_alphabetic());
    if labels.len() != rank || !labels.iter().all(is_letter) {
        return Err(c.invalid(format_args!("'{text}' does not name {rank} axes")));
    }
    Ok(labels)
}

/// Two axes with the same label, if there are any.
fn repeated(labels: &[Label]) -> Option<[usize; 2]> {
    let second = (0..labels.len()).find(|&i| labels[..i].contains(&labels[i]))?;
    let first = labels.iter().position(|l| *l == labels[second])?;
    Some([first, second])
}

/// Takes the diagonal of axes with the same label, so that each label occurs once.
fn diagonal(c: &mut Call, mut term: Term) -> Result<Term> {
    while let Some([first, second]) = repeated(&term.labels) {
        let shape = c.shape(term.value);
        let size = shape[first];
        if shape[second] != size {
            return Err(c.invalid(format_args!("{shape:?} has no diagonal")));
        }
        let mut perm: Vec<usize> =
            (0..shape.len()).filter(|i| *i != first && *i != second).collect();
        let mut labels: Vec<Label> = perm.iter().map(|&i| term.labels[i]).collect();
        let lead: Vec<usize> = perm.iter().map(|&i| shape[i]).collect();
        perm.extend([first, second]);
        let moved = c.transpose(term.value, &perm)?;
        let flat = c.reshape(moved, &[&lead[..], &[size * size]].concat())?;
        let places = Tensor::index((0..size as i64).map(|i| i * (size as i64 + 1)));
        let places = c.constant(places);
        let value = c.gather(flat, places, lead.len())?;
        labels.push(term.labels[first]);
        term = Term { value, labels };
    }
    Ok(term)
}

/// The labels of the result of an equation without an arrow: the axes of the ellipsis, then the letters
/// that occur once, in alphabetical order.
fn implicit(terms: &[Term], hidden: usize) -> Vec<Label> {
    let mut letters: Vec<Label> = terms.iter().flat_map(|t| t.labels.clone()).collect();
    letters.retain(|l| matches!(l, Label::Letter(_)));
    letters.sort_unstable();
    let once: Vec<Label> = letters
        .iter()
        .copied()
        .filter(|l| letters.iter().filter(|o| *o == l).count() == 1)
        .collect();
    (0..hidden).rev().map(Label::Hidden).chain(once).collect()
}

/// Sums over the axes that neither the result nor another term needs.
fn sum_unused(c: &mut Call, term: Term, needed: &[Label], rest: &[Term]) -> Result<Term> {
    let used = |l: Label| needed.contains(&l) || rest.iter().any(|t| t.has(l));
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&i| !used(term.labels[i])).collect();
    if axes.is_empty() {
        return Ok(term);
    }
    let sum = c.reduce_sum(term.value, &axes)?;
    let shape = c.shape(sum);
    let kept: Vec<usize> = (0..shape.len()).filter(|i| !axes.contains(i)).collect();
    let value = c.reshape(sum, &kept.iter().map(|&i| shape[i]).collect::<Vec<_>>())?;
    Ok(Term { value, labels: kept.iter().map(|&i| term.labels[i]).collect() })
}

/// The term with its axes in the order of `labels`. Missing axes get length 1.
fn arrange(c: &mut Call, term: &Term, labels: &[Label]) -> Result<Value> {
    let present = labels.iter().filter_map(|l| term.labels.iter().position(|own| own == l));
    let perm: Vec<usize> = present.collect();
    let moved = c.transpose(term.value, &perm)?;
    let mut sizes = c.shape(moved).into_iter();
    let shape: Vec<usize> =
        labels.iter().map(|&l| if term.has(l) { sizes.next().unwrap_or(1) } else { 1 }).collect();
    c.reshape(moved, &shape)
}

/// The product of two terms, summed over their common axes that nothing else needs.
fn contract(c: &mut Call, a: Term, b: Term, wanted: &[Label], rest: &[Term]) -> Result<Term> {
    let needed = |l: Label| wanted.contains(&l) || rest.iter().any(|t| t.has(l));
    let size = |c: &Call, t: &Term, l: Label| {
        t.labels.iter().position(|own| *own == l).map_or(1, |i| c.graph().shape(t.value)[i])
    };
    // An axis of length 1 in one of the two broadcasts, so a matrix product cannot contract it.
    let joint = |c: &Call, l: Label| size(c, &a, l) == size(c, &b, l);
    let common: Vec<Label> = a.labels.iter().copied().filter(|&l| b.has(l)).collect();
    let (kept, summed): (Vec<Label>, Vec<Label>) = common.iter().partition(|&&l| needed(l));
    let own = |t: &Term, other: &Term| -> Vec<Label> {
        t.labels.iter().copied().filter(|&l| !other.has(l)).collect()
    };
    let (rows, columns) = (own(&a, &b), own(&b, &a));
    if summed.is_empty() || !summed.iter().all(|&l| joint(c, l)) {
        let labels = [&kept[..], &rows, &columns, &summed].concat();
        let (p, q) = (arrange(c, &a, &labels)?, arrange(c, &b, &labels)?);
        let value = c.mul(p, q)?;
        return sum_unused(c, Term { value, labels }, wanted, rest);
    }
    let sizes = |c: &Call, t: &Term, labels: &[Label]| -> Vec<usize> {
        labels.iter().map(|&l| size(c, t, l)).collect()
    };
    let (lead_a, lead_b) = (sizes(c, &a, &kept), sizes(c, &b, &kept));
    let (m, n) = (sizes(c, &a, &rows), sizes(c, &b, &columns));
    let k: usize = sizes(c, &a, &summed).iter().product();
    let p = arrange(c, &a, &[&kept[..], &rows, &summed].concat())?;
    let q = arrange(c, &b, &[&kept[..], &summed, &columns].concat())?;
    let p = c.reshape(p, &[&lead_a[..], &[m.iter().product(), k]].concat())?;
    let q = c.reshape(q, &[&lead_b[..], &[k, n.iter().product()]].concat())?;
    let product = c.matmul(p, q)?;
    let lead = c.shape(product)[..kept.len()].to_vec();
    let value = c.reshape(product, &[lead, m, n].concat())?;
    Ok(Term { value, labels: [kept, rows, columns].concat() })
}
