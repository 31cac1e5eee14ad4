//! Conditions on models.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::score::ModelResult;

/// A condition such as `params < 5e6 and gradalign-1 > 0`: comparisons of a score, or of `params`,
/// `flops` or `seconds`, with a number, all of which must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Vec<Comparison>);

#[derive(Clone, Debug, PartialEq)]
struct Comparison {
    name: String,
    relation: Relation,
    number: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    AtMost,
    Equal,
    Other,
    AtLeast,
    Greater,
}

/// Longer ones first, so that `<` does not take `<=` for itself.
const RELATIONS: [(&str, Relation); 7] = [
    ("<=", Relation::AtMost),
    (">=", Relation::AtLeast),
    ("!=", Relation::Other),
    ("==", Relation::Equal),
    ("<", Relation::Less),
    (">", Relation::Greater),
    ("=", Relation::Equal),
];

impl Filter {
    /// Whether `model` meets the condition. One that lacks a value in it does not.
    pub fn admits(&self, model: &ModelResult) -> bool {
        self.0.iter().all(|Comparison { name, relation, number }| {
            value(model, name).is_some_and(|value| match relation {
                Relation::Less => value < *number,
                Relation::AtMost => value <= *number,
                Relation::Equal => value == *number,
                Relation::Other => value != *number,
                Relation::AtLeast => value >= *number,
                Relation::Greater => value > *number,
            })
        })
    }

    /// Errs when the condition has a name that is none of `scores`, nor one that every model has.
    ///
    /// # Errors
    /// Names what there is.
    pub fn check(&self, scores: &[String]) -> Result<()> {
        for Comparison { name, .. } in &self.0 {
            let is_known = ["params", "flops", "seconds"].contains(&&**name)
                || scores.iter().any(|score| score == name);
            if !is_known {
                return Err(Error::Usage(format!(
                    "`where` has '{name}', and there are params, flops, seconds and the scores asked \
                     for: {}",
                    scores.join(", ")
                )));
            }
        }
        Ok(())
    }
}

fn value(model: &ModelResult, name: &str) -> Option<f64> {
    match name {
        "params" => model.parameters.map(|n| n as f64),
        "flops" => model.flops.map(|n| n as f64),
        "seconds" => Some(model.seconds),
        score => model.value(score),
    }
}

impl FromStr for Filter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(" and ").map(comparison).collect::<Result<_>>().map(Filter)
    }
}

fn comparison(text: &str) -> Result<Comparison> {
    let wrong = || {
        Error::Usage(format!(
            "'{}' is no condition: give a name, one of < <= = != >= >, and a number, such as 'params < \
             5e6', and join several by 'and'",
            text.trim()
        ))
    };
    let at = text.find(['<', '>', '=', '!']).ok_or_else(wrong)?;
    let (name, rest) = text.split_at(at);
    let (sign, relation) =
        RELATIONS.iter().find(|(sign, _)| rest.starts_with(sign)).ok_or_else(wrong)?;
    let number: f64 = rest[sign.len()..].trim().parse().map_err(|_| wrong())?;
    let name = name.trim();
    if name.is_empty() || name.contains(char::is_whitespace) || number.is_nan() {
        return Err(wrong());
    }
    Ok(Comparison { name: name.to_owned(), relation: *relation, number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::ScoreValue;
    use crate::source::ModelRef;

    #[test]
    fn conditions_compare_values() {
        let mut model = ModelResult::new(&ModelRef::new("a.onnx"));
        (model.parameters, model.seconds) = (Some(1000), 0.5);
        model.add_score(&ScoreValue::new("te-nas", -3.5));
        model.add_score(&ScoreValue::new("zen", f64::NAN));
        for (text, admits) in [
            ("params < 1001", true),
            ("params<1e3", false),
            ("params <= 1000 and te-nas > -4", true),
            ("params <= 1000 and te-nas > -3", false),
            ("te-nas = -3.5", true),
            ("te-nas == -3.5", true),
            ("te-nas != -3.5", false),
            ("seconds >= 0.5", true),
            // There is no value.
            ("zen > -inf", false),
            ("flops > 0", false),
        ] {
            assert_eq!(text.parse::<Filter>().unwrap().admits(&model), admits, "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "params", "params <", "< 5", "params << 5", "params < five", "a b < 1"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
        let filter: Filter = "zne > 1".parse().unwrap();
        let error = filter.check(&["zen".into()]).unwrap_err().to_string();
        assert!(error.contains("'zne'") && error.contains("zen"), "{error}");
        assert!(filter.check(&["zne".into()]).is_ok());
    }
}
