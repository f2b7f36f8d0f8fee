//! Whether a value is as a JSON schema says: as much of the language as this project's schemas use. A word of it that is
//! not known here is an error, so that nothing is passed over. (The crate that knows all of it takes minutes to build.)

use serde_json::{Map, Value};

/// A schema, and the definitions that it refers to.
pub struct Schema<'s> {
    root: &'s Value,
}

/// Words that say nothing of values.
const SILENT: [&str; 5] = ["$schema", "title", "description", "$defs", "format"];

impl<'s> Schema<'s> {
    pub const fn new(root: &'s Value) -> Self {
        Self { root }
    }

    /// What is wrong with `value`, each with its place; nothing where all is right.
    pub fn errors(&self, value: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        self.check(self.root, value, "", &mut errors);
        errors
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
        let words = match schema {
            Value::Bool(true) => return,
            Value::Object(words) => words,
            other => return errors.push(format!("{at}: {other} is no schema")),
        };
        for (word, says) in words {
            let holds = match (word.as_str(), value) {
                ("type", _) => list(says).iter().any(|name| is_type(name.as_str(), value)),
                ("const", _) => says == value,
                ("enum", _) => list(says).contains(value),
                ("$ref", _) => {
                    match says.as_str().and_then(|path| self.root.pointer(path.strip_prefix('#')?)) {
                        Some(schema) => self.check(schema, value, at, errors),
                        None => errors.push(format!("{at}: {says} leads nowhere")),
                    }
                    true
                }
                ("anyOf" | "oneOf", _) => {
                    let fits = |schema: &&Value| {
                        let mut errors = Vec::new();
                        self.check(schema, value, at, &mut errors);
                        errors.is_empty()
                    };
                    let count = list(says).iter().filter(fits).count();
                    if word == "anyOf" { count > 0 } else { count == 1 }
                }
                ("minimum", Value::Number(number)) => number.as_f64() >= says.as_f64(),
                ("maximum", Value::Number(number)) => number.as_f64() <= says.as_f64(),
                ("pattern", Value::String(text)) => matches(says.as_str().unwrap_or_default(), text),
                ("required", Value::Object(fields)) => {
                    list(says).iter().all(|name| fields.contains_key(name.as_str().unwrap_or_default()))
                }
                ("properties", Value::Object(fields)) => {
                    for (name, value) in fields {
                        if let Some(schema) = says.get(name) {
                            self.check(schema, value, &format!("{at}/{name}"), errors);
                        } else if !words.contains_key("additionalProperties") {
                            errors.push(format!("{at}/{name}: the schema does not know it"));
                        }
                    }
                    true
                }
                ("additionalProperties", Value::Object(fields)) => {
                    let none = Map::new();
                    let known = words.get("properties").and_then(Value::as_object).unwrap_or(&none);
                    for (name, value) in fields.iter().filter(|(name, _)| !known.contains_key(*name)) {
                        self.check(says, value, &format!("{at}/{name}"), errors);
                    }
                    true
                }
                ("items", Value::Array(items)) => {
                    for (n, value) in items.iter().enumerate() {
                        self.check(says, value, &format!("{at}/{n}"), errors);
                    }
                    true
                }
                ("minItems", Value::Array(items)) => Some(items.len() as u64) >= says.as_u64(),
                ("maxItems", Value::Array(items)) => Some(items.len() as u64) <= says.as_u64(),
                ("uniqueItems", Value::Array(items)) => {
                    says != &Value::Bool(true) || items.iter().enumerate().all(|(n, item)| !items[..n].contains(item))
                }
                (
                    "minimum"
                    | "maximum"
                    | "pattern"
                    | "required"
                    | "properties"
                    | "additionalProperties"
                    | "items"
                    | "minItems"
                    | "maxItems"
                    | "uniqueItems",
                    _,
                ) => true,
                (word, _) if SILENT.contains(&word) => true,
                (word, _) => return errors.push(format!("{at}: {word} is a word that is not known here")),
            };
            if !holds {
                errors.push(format!("{at}: {value} is not as {word} says: {says}"));
            }
        }
    }
}

/// A list, or the only one of it.
fn list(says: &Value) -> Vec<Value> {
    says.as_array().cloned().unwrap_or_else(|| vec![says.clone()])
}

fn is_type(name: Option<&str>, value: &Value) -> bool {
    match name {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_u64() || value.is_i64(),
        Some("number") => value.is_number(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

/// Patterns are all of the form `^0x[0-9a-f]{LEAST,MOST}$`.
fn matches(pattern: &str, text: &str) -> bool {
    let lengths = pattern.strip_prefix("^0x[0-9a-f]{").and_then(|rest| rest.strip_suffix("}$"));
    let Some(lengths) = lengths else { return false };
    let (least, most) = lengths.split_once(',').unwrap_or((lengths, lengths));
    let digits =
        text.strip_prefix("0x").filter(|rest| rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    let length = digits.map(str::len);
    length >= least.parse().ok() && length <= most.parse().ok() && length.is_some()
}
