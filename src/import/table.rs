//! The table of operators: what each is lowered to, or why it is not supported. The page
//! `docs/operators.md` is generated from it.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::call::Call;
use super::importer::Binding;
use super::lower;
use crate::error::Result;
use crate::graph::Value;
use crate::ops::Derivative;

/// How an operator is lowered.
#[derive(Clone, Copy)]
pub(super) enum Lowering {
    /// To one value.
    One(fn(&mut Call) -> Result<Value>),
    /// To several results, or to one that is not a value of the graph, such as a sequence.
    Many(fn(&mut Call) -> Result<Vec<Binding>>),
    /// Not at all, for this reason.
    Refused(&'static str),
}

/// An operator in the table.
pub struct Entry {
    /// The domain; empty for `ai.onnx`.
    pub domain: &'static str,
    /// The operator's name.
    pub op: &'static str,
    /// The first supported version of the domain's operator set that has the operator.
    pub since: i64,
    /// How it is differentiated, if at all.
    pub derivative: Derivative,
    /// What it is lowered to, in words.
    pub note: &'static str,
    pub(super) lowering: Lowering,
}

/// An operator with one result, differentiated through its lowering.
pub(super) const fn rule(
    op: &'static str,
    since: i64,
    note: &'static str,
    lower: fn(&mut Call) -> Result<Value>,
) -> Entry {
    let lowering = Lowering::One(lower);
    Entry { domain: "", op, since, derivative: Derivative::Rule, note, lowering }
}

/// An operator with several results, differentiated through its lowering.
pub(super) const fn rules(
    op: &'static str,
    since: i64,
    note: &'static str,
    lower: fn(&mut Call) -> Result<Vec<Binding>>,
) -> Entry {
    let lowering = Lowering::Many(lower);
    Entry { domain: "", op, since, derivative: Derivative::Rule, note, lowering }
}

/// An operator whose derivative is zero wherever it is defined.
pub(super) const fn zero(
    op: &'static str,
    since: i64,
    note: &'static str,
    lower: fn(&mut Call) -> Result<Value>,
) -> Entry {
    let lowering = Lowering::One(lower);
    Entry { domain: "", op, since, derivative: Derivative::Zero, note, lowering }
}

/// An operator that is not supported.
pub(super) const fn refused(op: &'static str, since: i64, reason: &'static str) -> Entry {
    Entry {
        domain: "",
        op,
        since,
        derivative: Derivative::Unsupported(reason),
        note: "",
        lowering: Lowering::Refused(reason),
    }
}

impl Entry {
    /// The same entry in another domain.
    pub(super) const fn of(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }
}

/// ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// Operators of classical machine learning.
pub(super) const ML: &str = "ai.onnx.ml";

static TABLE: LazyLock<Vec<&'static Entry>> = LazyLock::new(|| {
    let mut all: Vec<&Entry> = lower::FAMILIES.iter().flat_map(|family| family.iter()).collect();
    all.sort_by_key(|entry| (entry.domain, entry.op));
    all
});

static INDEX: LazyLock<HashMap<(&'static str, &'static str), &'static Entry>> =
    LazyLock::new(|| TABLE.iter().map(|entry| ((entry.domain, entry.op), *entry)).collect());

/// All operators in the table, by domain and name.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().copied()
}

/// The entry of an operator; `None` if it is unknown.
pub(super) fn lookup(domain: &str, op: &str) -> Option<&'static Entry> {
    INDEX.get(&(domain, op)).copied()
}

/// The table as a page of Markdown.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Operators\n\n\
         *This page is generated from the table of operators in the source by `gradalign ops \
         --format markdown`.*\n\n\
         The import lowers every operator to a small set of primitives, which have gradient and \
         batching rules. The column *derivative* says how an operator is differentiated: by a \
         *rule*; not at all, since its derivative is *zero* wherever it is defined; or the operator \
         is *not supported*, and models that need it are refused with the reason. *Since* is the \
         first version of the operator set, from 7 on, that has the operator.\n",
    );
    let mut domain = None;
    for entry in entries() {
        if domain != Some(entry.domain) {
            domain = Some(entry.domain);
            let title = if entry.domain.is_empty() { "ai.onnx" } else { entry.domain };
            page += &format!("\n## {title}\n\n");
            page += "| operator | since | derivative | lowered to |\n|---|---|---|---|\n";
        }
        let (derivative, note) = match entry.derivative {
            Derivative::Rule => ("rule", entry.note),
            Derivative::Zero => ("zero", entry.note),
            Derivative::Unsupported(reason) => ("not supported", reason),
        };
        page += &format!("| {} | {} | {derivative} | {note} |\n", entry.op, entry.since);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_listed_twice() {
        assert_eq!(INDEX.len(), TABLE.len());
    }

    #[test]
    fn every_entry_has_a_note_or_a_reason() {
        for entry in entries() {
            let said = match entry.derivative {
                Derivative::Unsupported(reason) => reason,
                _ => entry.note,
            };
            assert!(!said.is_empty() && !said.contains('|'), "{}", entry.op);
        }
    }
}
