//! As much of JSON Schema (draft 2020-12) as `docs/record.schema.json` needs. A keyword that is not
//! known here is a failure, so that none goes unchecked.

use serde_json::{Map, Value};

pub(super) struct Schema(Value);

impl Schema {
    pub(super) fn read(path: &str) -> Self {
        Schema(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
    }

    #[track_caller]
    pub(super) fn check(&self, value: &Value) {
        if let Some(why) = self.problem(value) {
            panic!("{why}");
        }
    }

    /// Where and why `value` does not fit, if it does not.
    pub(super) fn problem(&self, value: &Value) -> Option<String> {
        self.fit(&self.0, value).err()
    }

    fn fit(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(()),
            Value::Object(schema) => schema,
            other => return Err(format!("{other} allows nothing, not {value}")),
        };
        for (keyword, argument) in schema {
            self.keyword(schema, keyword, argument, value).map_err(|why| {
                if why.contains(" in ") { why } else { format!("{why} in {value}") }
            })?;
        }
        Ok(())
    }

    fn keyword(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        argument: &Value,
        value: &Value,
    ) -> Result<(), String> {
        let need = |fits: bool| fits.then_some(()).ok_or_else(|| format!("{keyword}: {argument}"));
        match keyword {
            "$schema" | "$id" | "$defs" | "title" | "description" => Ok(()),
            "$ref" => {
                let place = argument.as_str().unwrap().strip_prefix('#').unwrap();
                self.fit(self.0.pointer(place).unwrap_or_else(|| panic!("no {place}")), value)
            }
            "type" => match argument {
                Value::Array(types) => need(types.iter().any(|t| is_a(t, value))),
                one => need(is_a(one, value)),
            },
            "const" => need(argument == value),
            "enum" => need(argument.as_array().unwrap().contains(value)),
            "minimum" => need(value.as_f64().is_none_or(|v| v >= argument.as_f64().unwrap())),
            "pattern" => {
                assert_eq!(argument, "^[0-9a-f]{64}$", "the only pattern that is known");
                let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                need(value.as_str().is_none_or(|text| text.len() == 64 && text.chars().all(is_hex)))
            }
            "required" => {
                let Some(object) = value.as_object() else { return Ok(()) };
                for name in argument.as_array().unwrap() {
                    if !object.contains_key(name.as_str().unwrap()) {
                        return Err(format!("no {name}"));
                    }
                }
                Ok(())
            }
            "properties" => {
                for (name, schema) in argument.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        self.fit(schema, value).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                Ok(())
            }
            "additionalProperties" => {
                let Some(object) = value.as_object() else { return Ok(()) };
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, value) in object {
                    if !known.is_some_and(|known| known.contains_key(name)) {
                        self.fit(argument, value).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                Ok(())
            }
            "items" => match value.as_array() {
                Some(items) => items.iter().try_for_each(|item| self.fit(argument, item)),
                None => Ok(()),
            },
            "oneOf" => {
                let outcomes: Vec<_> =
                    argument.as_array().unwrap().iter().map(|s| self.fit(s, value)).collect();
                match outcomes.iter().filter(|outcome| outcome.is_ok()).count() {
                    1 => Ok(()),
                    0 => Err(outcomes
                        .into_iter()
                        .filter_map(Result::err)
                        .collect::<Vec<_>>()
                        .join("; or ")),
                    several => Err(format!("{several} forms fit")),
                }
            }
            other => panic!("the keyword {other} is not known"),
        }
    }
}

fn is_a(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("the type {other} is not known"),
    }
}
