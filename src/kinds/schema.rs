//! Structural schemas: what the objects of a kind look like.
//!
//! Owns: the schema value, its builders and its OpenAPI v3 form. What is done with it stands beside: unknown fields and
//! pruning in [`super::strict`], validation and defaults in [`super::validate`].

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::{quantity::Quantity, selector, time::Timestamp};

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schema {
    pub shape: Shape,
    pub description: String,
    /// Admits `null`; elsewhere null stands for absent and is dropped, as in Kubernetes.
    pub nullable: bool,
    /// Filled in where the field is absent.
    pub default: Option<Value>,
    /// The only values a string may have.
    pub choices: Vec<String>,
    pub format: Option<Format>,
    /// Of numbers.
    pub minimum: Option<i64>,
    pub maximum: Option<i64>,
    /// Characters of strings, items of arrays.
    pub length_min: Option<usize>,
    pub length_max: Option<usize>,
    /// How clients merge a list: as a map by these keys of its items; a list that is empty here is replaced whole.
    pub list_keys: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub enum Shape {
    /// Anything at all (`x-kubernetes-preserve-unknown-fields` without a type).
    #[default]
    Any,
    Object(Object),
    Array(Box<Schema>),
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object {
    pub properties: BTreeMap<String, Schema>,
    pub required: Vec<String>,
    pub rest: Rest,
}

/// What an object's fields besides its properties are.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Rest {
    /// Reported as unknown, then dropped.
    #[default]
    Unknown,
    /// Kept as they are.
    Preserved,
    /// A map: each value has this schema.
    Each(Box<Schema>),
}

/// Checked by code rather than by regular expressions, so that messages can say what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    DateTime,
    DnsLabel,
    DnsSubdomain,
    LabelKey,
    LabelValue,
    Quantity,
    /// 64 lowercase hex characters.
    Sha256,
}

impl Schema {
    pub fn any() -> Self {
        Self::default()
    }

    pub fn string() -> Self {
        Self::of(Shape::String)
    }

    pub fn integer() -> Self {
        Self::of(Shape::Integer)
    }

    pub fn boolean() -> Self {
        Self::of(Shape::Boolean)
    }

    pub fn int_or_string() -> Self {
        Self::of(Shape::IntOrString)
    }

    pub fn time() -> Self {
        Self::string().format(Format::DateTime)
    }

    pub fn array(items: Self) -> Self {
        Self::of(Shape::Array(Box::new(items)))
    }

    pub fn map(values: Self) -> Self {
        Self::of(Shape::Object(Object { rest: Rest::Each(Box::new(values)), ..Object::default() }))
    }

    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        let properties = properties.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
        Self::of(Shape::Object(Object { properties, ..Object::default() }))
    }

    /// An object of which nothing is known and everything is kept.
    pub fn free_form() -> Self {
        Self::of(Shape::Object(Object { rest: Rest::Preserved, ..Object::default() }))
    }

    fn of(shape: Shape) -> Self {
        Self { shape, ..Self::default() }
    }

    pub fn required<const N: usize>(mut self, names: [&str; N]) -> Self {
        if let Shape::Object(object) = &mut self.shape {
            object.required = names.map(str::to_owned).into();
        }
        self
    }

    pub fn describe(mut self, text: &str) -> Self {
        self.description = text.to_owned();
        self
    }

    pub fn choices<const N: usize>(mut self, choices: [&str; N]) -> Self {
        self.choices = choices.map(str::to_owned).into();
        self
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    pub fn minimum(mut self, minimum: i64) -> Self {
        self.minimum = Some(minimum);
        self
    }

    pub fn maximum(mut self, maximum: i64) -> Self {
        self.maximum = Some(maximum);
        self
    }

    pub fn length_max(mut self, length: usize) -> Self {
        self.length_max = Some(length);
        self
    }

    pub fn length_min(mut self, length: usize) -> Self {
        self.length_min = Some(length);
        self
    }

    pub fn or(mut self, value: Value) -> Self {
        self.default = Some(value);
        self
    }

    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    pub fn list_keys<const N: usize>(mut self, keys: [&str; N]) -> Self {
        self.list_keys = keys.map(str::to_owned).into();
        self
    }

    /// Keeps what it does not know, beside the properties it does.
    pub fn open(mut self) -> Self {
        if let Shape::Object(object) = &mut self.shape {
            object.rest = Rest::Preserved;
        }
        self
    }

    /// The field's schema, where this one is an object that has it.
    pub fn property(&self, name: &str) -> Option<&Self> {
        match &self.shape {
            Shape::Object(object) => object.properties.get(name),
            _ => None,
        }
    }

    /// As OpenAPI v3 (and a CustomResourceDefinition) writes it.
    pub fn open_api(&self) -> Value {
        let mut out = Map::new();
        let mut put = |name: &str, value: Value| out.insert(name.to_owned(), value);
        match &self.shape {
            Shape::Any => drop(put("x-kubernetes-preserve-unknown-fields", json!(true))),
            Shape::Object(object) => {
                put("type", json!("object"));
                if !object.properties.is_empty() {
                    let fields = object.properties.iter().map(|(name, schema)| (name.clone(), schema.open_api()));
                    put("properties", Value::Object(fields.collect()));
                }
                if !object.required.is_empty() {
                    put("required", json!(object.required));
                }
                match &object.rest {
                    Rest::Unknown => {}
                    Rest::Preserved => drop(put("x-kubernetes-preserve-unknown-fields", json!(true))),
                    Rest::Each(schema) => drop(put("additionalProperties", schema.open_api())),
                }
            }
            Shape::Array(items) => {
                put("type", json!("array"));
                put("items", items.open_api());
                if self.list_keys.is_empty() {
                    put("x-kubernetes-list-type", json!("atomic"));
                } else {
                    put("x-kubernetes-list-type", json!("map"));
                    put("x-kubernetes-list-map-keys", json!(self.list_keys));
                }
                self.length_min.map(|length| put("minItems", json!(length)));
                self.length_max.map(|length| put("maxItems", json!(length)));
            }
            Shape::String => {
                put("type", json!("string"));
                self.length_min.map(|length| put("minLength", json!(length)));
                self.length_max.map(|length| put("maxLength", json!(length)));
            }
            Shape::Integer => {
                put("type", json!("integer"));
                put("format", json!("int64"));
            }
            Shape::Number => drop(put("type", json!("number"))),
            Shape::Boolean => drop(put("type", json!("boolean"))),
            Shape::IntOrString => {
                put("x-kubernetes-int-or-string", json!(true));
                put("anyOf", json!([{"type": "integer"}, {"type": "string"}]));
            }
        }
        if !self.description.is_empty() {
            put("description", json!(self.description));
        }
        if self.nullable {
            put("nullable", json!(true));
        }
        if let Some(value) = &self.default {
            put("default", value.clone());
        }
        if !self.choices.is_empty() {
            put("enum", json!(self.choices));
        }
        self.minimum.map(|minimum| put("minimum", json!(minimum)));
        self.maximum.map(|maximum| put("maximum", json!(maximum)));
        match self.format {
            Some(Format::DateTime) => drop(put("format", json!("date-time"))),
            Some(format) => drop(put("pattern", json!(format.pattern()))),
            None => {}
        }
        Value::Object(out)
    }
}

impl Format {
    /// What is wrong with a text, in words.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::DateTime => serde_json::from_value::<Timestamp>(Value::String(text.to_owned()))
                .map(drop)
                .map_err(|_| "must be a time as RFC 3339 writes it, such as 2026-01-31T12:00:00Z".into()),
            Self::DnsLabel => check_label(text),
            Self::DnsSubdomain => check_subdomain(text),
            Self::LabelKey => selector::check_key(text),
            Self::LabelValue => selector::check_value(text),
            Self::Quantity => text.parse::<Quantity>().map(drop).map_err(|error| error.to_string()),
            Self::Sha256 => text.parse::<crate::model::Digest>().map(drop).map_err(|error| error.to_string()),
        }
    }

    /// For clients that check before they send.
    fn pattern(self) -> &'static str {
        match self {
            Self::DateTime => "",
            Self::DnsLabel => "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
            Self::DnsSubdomain => "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            Self::LabelKey => "^([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
            Self::LabelValue => "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$",
            Self::Quantity => "^[+-]?([0-9]+\\.?[0-9]*|\\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$",
            Self::Sha256 => "^[0-9a-f]{64}$",
        }
    }
}

/// A lowercase RFC 1123 label of at most 63 characters.
pub fn check_label(text: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !text.is_empty() && text.chars().all(inner) && !text.starts_with('-') && !text.ends_with('-') {
        return if text.len() <= 63 { Ok(()) } else { Err("must be no more than 63 characters".into()) };
    }
    Err("must consist of lower case letters, digits and '-', and begin and end with a letter or digit".into())
}

/// Lowercase RFC 1123 labels joined by dots, at most 253 characters. (Labels longer than 63 are admitted here, as
/// Kubernetes does.)
pub fn check_subdomain(text: &str) -> Result<(), String> {
    let word = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    if text.split('.').all(word) {
        return Ok(());
    }
    Err("must consist of lower case letters, digits, '-' and '.', and begin and end with a letter or digit".into())
}
