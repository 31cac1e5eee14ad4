//! JSON in one form, and its digest.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::file;

/// `value` as JSON with sorted keys, without spaces, and numbers as short as they can be.
pub(super) fn json(value: &impl Serialize) -> String {
    // By way of text, in which float32 numbers are short; as float64 ones they would not be. Only maps
    // whose keys are not text cannot be written, and there are none.
    let text = serde_json::to_string(value).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let mut canonical = String::new();
    write(&value, &mut canonical);
    canonical
}

/// The SHA-256 in hex of [`json`].
pub(super) fn digest(value: &impl Serialize) -> String {
    file::hex(Sha256::new_with_prefix(json(value)))
}

fn write(value: &Value, to: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(name, _)| *name);
            list(to, ['{', '}'], entries, |(name, value), to| {
                *to += &Value::from(name.as_str()).to_string();
                to.push(':');
                write(value, to);
            });
        }
        Value::Array(values) => list(to, ['[', ']'], values, write),
        simple => *to += &simple.to_string(),
    }
}

fn list<T>(
    to: &mut String,
    [open, close]: [char; 2],
    items: impl IntoIterator<Item = T>,
    write: impl Fn(T, &mut String),
) {
    to.push(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            to.push(',');
        }
        write(item, to);
    }
    to.push(close);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn keys_are_sorted_and_numbers_short() {
        #[derive(Serialize)]
        struct Mixed {
            b: f32,
            a: Vec<f64>,
            c: BTreeMap<String, Option<u64>>,
        }
        let c = BTreeMap::from([("y\"".into(), None), ("x".into(), Some(u64::MAX))]);
        let value = Mixed { b: 0.485, a: vec![0.1, 2.0], c };
        let expected = r#"{"a":[0.1,2.0],"b":0.485,"c":{"x":18446744073709551615,"y\"":null}}"#;
        assert_eq!(json(&value), expected);
    }
}
