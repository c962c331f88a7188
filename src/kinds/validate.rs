//! Values against schemas: normalising (nulls, unknown fields, defaults) and validation with every error at once.

use serde_json::{Map, Value};

use super::schema::{Object, Rest, Schema, Shape};
use crate::model::{
    FieldError,
    object::FieldErrorKind::{self, Invalid, NotSupported, Required, TooLong, TooMany, TypeInvalid},
};

/// Where in an object one is; rendered only when there is something to say about the place.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) if name.contains(['.', '/']) => write!(f, "{parent}[{name}]"),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Schema {
    /// Drops unknown fields and nulls that stand for absent ones, then fills in defaults. Free-form parts stay as they
    /// are.
    pub fn normalise(&self, value: &mut Value) {
        match (&self.shape, value) {
            (Shape::Object(object), Value::Object(fields)) => normalise_fields(object, fields),
            (Shape::Array(items), Value::Array(values)) => values.iter_mut().for_each(|value| items.normalise(value)),
            _ => {}
        }
    }

    /// Every fault of the value, in order of the fields; at most `limit` of them.
    pub fn validate(&self, value: &Value, limit: usize) -> Vec<FieldError> {
        let mut faults = Faults { found: vec![], limit };
        check(self, value, Path::Root, &mut faults);
        faults.found
    }
}

fn normalise_fields(object: &Object, fields: &mut Map<String, Value>) {
    fields.retain(|name, value| match (object.properties.get(name), &object.rest) {
        (Some(schema), _) => !value.is_null() || schema.nullable || schema.shape == Shape::Any,
        (None, Rest::Unknown) => false,
        (None, Rest::Preserved) => true,
        (None, Rest::Each(schema)) => !value.is_null() || schema.nullable,
    });
    for (name, schema) in &object.properties {
        if let Some(default) = &schema.default
            && !fields.contains_key(name)
        {
            fields.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in fields.iter_mut() {
        match (object.properties.get(name), &object.rest) {
            (Some(schema), _) => schema.normalise(value),
            (None, Rest::Each(schema)) => schema.normalise(value),
            (None, _) => {}
        }
    }
}

struct Faults {
    found: Vec<FieldError>,
    limit: usize,
}

impl Faults {
    fn add(&mut self, path: Path<'_>, kind: FieldErrorKind, detail: impl Into<String>) {
        if !self.is_full() {
            self.found.push(FieldError::new(path.to_string(), kind, detail));
        }
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.limit
    }
}

fn check(schema: &Schema, value: &Value, path: Path<'_>, faults: &mut Faults) {
    if faults.is_full() || (value.is_null() && schema.nullable) {
        return;
    }
    match (&schema.shape, value) {
        (Shape::Any, _) | (Shape::Boolean, Value::Bool(_)) => {}
        (Shape::Object(object), Value::Object(fields)) => check_fields(object, fields, path, faults),
        (Shape::Array(items), Value::Array(values)) => {
            check_length(schema, values.len(), "items", path, faults);
            for (index, value) in values.iter().enumerate() {
                check(items, value, Path::Index(&path, index), faults);
            }
        }
        (Shape::String, Value::String(text)) => check_text(schema, text, path, faults),
        (Shape::IntOrString, Value::String(_)) => {}
        (Shape::Integer | Shape::IntOrString, Value::Number(number)) if is_whole(number) => {
            check_bounds(schema, value, path, faults);
        }
        (Shape::Number, Value::Number(_)) => check_bounds(schema, value, path, faults),
        (shape, _) => faults.add(path, TypeInvalid, format!("{}: must be {}", excerpt(value), shape.in_words())),
    }
}

fn check_fields(object: &Object, fields: &Map<String, Value>, path: Path<'_>, faults: &mut Faults) {
    for name in &object.required {
        if fields.get(name).is_none_or(Value::is_null) {
            faults.add(Path::Field(&path, name), Required, "");
        }
    }
    for (name, value) in fields {
        match (object.properties.get(name), &object.rest) {
            (Some(schema), _) => check(schema, value, Path::Field(&path, name), faults),
            (None, Rest::Each(schema)) => check(schema, value, Path::Field(&path, name), faults),
            (None, _) => {}
        }
    }
}

fn check_text(schema: &Schema, text: &str, path: Path<'_>, faults: &mut Faults) {
    check_length(schema, text.chars().count(), "characters", path, faults);
    if !schema.choices.is_empty() && !schema.choices.iter().any(|choice| choice == text) {
        let choices = schema.choices.iter().map(|choice| format!("{choice:?}")).collect::<Vec<_>>().join(", ");
        faults.add(path, NotSupported, format!("{}: supported values: {choices}", excerpt_text(text)));
    }
    if let Some(format) = schema.format
        && let Err(detail) = format.check(text)
    {
        faults.add(path, Invalid, format!("{}: {detail}", excerpt_text(text)));
    }
}

fn check_length(schema: &Schema, length: usize, unit: &str, path: Path<'_>, faults: &mut Faults) {
    if let Some(most) = schema.length_max
        && length > most
    {
        let kind = if unit == "items" { TooMany } else { TooLong };
        faults.add(path, kind, format!("{length} {unit}: must have at most {most}"));
    }
    if let Some(least) = schema.length_min
        && length < least
    {
        faults.add(path, Invalid, format!("{length} {unit}: must have at least {least}"));
    }
}

fn check_bounds(schema: &Schema, value: &Value, path: Path<'_>, faults: &mut Faults) {
    let number = value.as_f64().unwrap_or_default();
    if schema.minimum.is_some_and(|minimum| number < minimum as f64) {
        let minimum = schema.minimum.unwrap_or_default();
        faults.add(path, Invalid, format!("{value}: must be at least {minimum}"));
    }
    if schema.maximum.is_some_and(|maximum| number > maximum as f64) {
        let maximum = schema.maximum.unwrap_or_default();
        faults.add(path, Invalid, format!("{value}: must be at most {maximum}"));
    }
}

fn is_whole(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|float| float.fract() == 0.0)
}

impl Shape {
    fn in_words(&self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Object(_) => "an object",
            Self::Array(_) => "an array",
            Self::String => "a string",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::IntOrString => "an integer or a string",
        }
    }
}

/// A value as messages show it: never more than a line.
pub fn excerpt(value: &Value) -> String {
    match value {
        Value::String(text) => excerpt_text(text),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}

fn excerpt_text(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{:?}", format!("{}…", &text[..end])),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::schema::Format;

    fn schema() -> Schema {
        Schema::object([
            ("name", Schema::string().length_max(5)),
            ("count", Schema::integer().minimum(0)),
            ("mode", Schema::string().choices(["A", "B"]).or(json!("A"))),
            ("at", Schema::time()),
            ("free", Schema::free_form()),
            ("labels", Schema::map(Schema::string().format(Format::LabelValue))),
            ("items", Schema::array(Schema::object([("id", Schema::string())]).required(["id"]))),
        ])
        .required(["name"])
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let value = json!({
            "count": -1, "mode": "C", "at": "noon", "free": [], "labels": {"a.b/c": "?"},
            "items": [{"id": "x"}, {}, 3],
        });
        let faults = schema().validate(&value, 100).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            faults,
            [
                "name: Required value",
                "at: Invalid value: \"noon\": must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z",
                "count: Invalid value: -1: must be at least 0",
                "free: Invalid value: an array: must be an object",
                "items[1].id: Required value",
                "items[2]: Invalid value: 3: must be an object",
                "labels[a.b/c]: Invalid value: \"?\": \"?\" is not a label value",
                "mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
            ]
        );
        assert_eq!(schema().validate(&value, 3).len(), 3);
    }

    #[test]
    fn normalising_prunes_and_defaults_but_leaves_free_form_parts_alone() {
        let mut value =
            json!({"name": "x", "extra": 1, "count": null, "free": {"kept": null}, "items": [{"id": "i", "odd": 1}]});
        schema().normalise(&mut value);
        assert_eq!(value, json!({"name": "x", "mode": "A", "free": {"kept": null}, "items": [{"id": "i"}]}));
        let once = value.clone();
        schema().normalise(&mut value);
        assert_eq!(value, once, "normalising twice changes nothing");
    }
}
