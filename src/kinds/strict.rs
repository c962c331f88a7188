//! Strict decoding: duplicate keys while a body is read, unknown fields after it.
//!
//! serde_json keeps the last of two equal keys silently, so bodies are read through an own visitor. The same visitor
//! reads YAML.

use std::{cell::RefCell, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    schema::{Rest, Schema, Shape},
    validate::Path,
};

/// What is wrong with a body that could be read all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding(String);

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A body as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Duplicate keys, in the order in which they were met; at most `limit` of them.
    pub duplicates: Vec<Finding>,
}

/// How much of a body is taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub depth: usize,
    pub findings: usize,
}

/// Reads any self-describing format.
pub fn decode<'de, D: Deserializer<'de>>(deserializer: D, limits: Limits) -> Result<Decoded, D::Error> {
    let duplicates = RefCell::new(Vec::new());
    let node = Node { path: Path::Root, depth: 0, limits, duplicates: &duplicates };
    let value = node.deserialize(deserializer)?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// Fields that the schema does not know, at most `limit` of them. Free-form parts hold none.
pub fn unknown_fields(schema: &Schema, value: &Value, limit: usize) -> Vec<Finding> {
    let mut found = vec![];
    find_unknown(schema, value, Path::Root, &mut found, limit);
    found
}

fn find_unknown(schema: &Schema, value: &Value, path: Path<'_>, found: &mut Vec<Finding>, limit: usize) {
    match (&schema.shape, value) {
        (Shape::Object(object), Value::Object(fields)) => {
            for (name, value) in fields {
                if found.len() >= limit {
                    return;
                }
                let path = Path::Field(&path, name);
                match (object.properties.get(name), &object.rest) {
                    (Some(schema), _) => find_unknown(schema, value, path, found, limit),
                    (None, Rest::Each(schema)) => find_unknown(schema, value, path, found, limit),
                    (None, Rest::Preserved) => {}
                    (None, Rest::Unknown) => found.push(finding("unknown", path)),
                }
            }
        }
        (Shape::Array(items), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                find_unknown(items, value, Path::Index(&path, index), found, limit);
            }
        }
        _ => {}
    }
}

fn finding(what: &str, path: Path<'_>) -> Finding {
    // A name of a megabyte is a name too; what is said of it stays short.
    let path: String = path.to_string().chars().take(200).collect();
    Finding(format!("{what} field {path:?}"))
}

#[derive(Clone, Copy)]
struct Node<'a> {
    path: Path<'a>,
    depth: usize,
    limits: Limits,
    duplicates: &'a RefCell<Vec<Finding>>,
}

impl<'a> Node<'a> {
    fn child<'b>(&self, path: Path<'b>) -> Node<'b>
    where
        'a: 'b,
    {
        Node { path, depth: self.depth + 1, limits: self.limits, duplicates: self.duplicates }
    }

    fn check_depth<E: de::Error>(&self) -> Result<(), E> {
        if self.depth < self.limits.depth {
            return Ok(());
        }
        Err(E::custom(format_args!("nested more than {} levels deep", self.limits.depth)))
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut values = vec![];
        while let Some(value) = items.next_element_seed(self.child(Path::Index(&self.path, values.len())))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let path = Path::Field(&self.path, &name);
            let value = entries.next_value_seed(self.child(path))?;
            if fields.contains_key(&name) && self.duplicates.borrow().len() < self.limits.findings {
                self.duplicates.borrow_mut().push(finding("duplicate", path));
            }
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: Limits = Limits { depth: 16, findings: 3 };

    fn read(text: &str) -> Result<Decoded, serde_json::Error> {
        decode(&mut serde_json::Deserializer::from_str(text), LIMITS)
    }

    fn texts(findings: &[Finding]) -> Vec<String> {
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn duplicate_keys_are_found_wherever_they_are() {
        let decoded = read(r#"{"a":1,"a":2,"b":[{"c":{"d.e":1,"d.e":2}}],"b":0}"#).expect("json");
        assert_eq!(
            texts(&decoded.duplicates),
            ["duplicate field \"a\"", "duplicate field \"b[0].c[d.e]\"", "duplicate field \"b\""]
        );
        assert_eq!(decoded.value, json!({"a": 2, "b": 0}), "the last one counts, as in Kubernetes");
    }

    #[test]
    fn numbers_and_texts_stay_what_they_were() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,1.5,"x"]}"#;
        assert_eq!(read(text).expect("json").value, serde_json::from_str::<Value>(text).expect("json"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(16)).is_ok());
        assert!(read(&nested(17)).is_err());
    }

    #[test]
    fn unknown_fields_are_found_outside_free_form_parts_and_their_number_is_bounded() {
        let schema = Schema::object([
            ("free", Schema::free_form()),
            ("list", Schema::array(Schema::object([("known", Schema::any())]))),
        ]);
        let value = json!({"free": {"x": 1}, "list": [{"known": {"y": 1}, "odd": 1}], "z": 1});
        assert_eq!(
            texts(&unknown_fields(&schema, &value, 10)),
            ["unknown field \"list[0].odd\"", "unknown field \"z\""]
        );
        let many = Value::Object((0..10_000).map(|n| (format!("f{n}"), json!(1))).collect());
        assert_eq!(unknown_fields(&schema, &many, 100).len(), 100);
    }
}
