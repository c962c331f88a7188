//! Properties: free-form JSON read with declared types, every fault told with its path.
//!
//! Types are strict as in KubeVela: a number is no string, `null` is no value. Properties that nobody declared are
//! ignored, as there.

use std::cell::RefCell;

use serde_json::{Map, Value};

use crate::model::{FieldError, object::FieldErrorKind};

use super::{known, numbers};

/// Where faults are collected, so that one reading finds all of them.
#[derive(Default)]
pub struct Faults(RefCell<Vec<FieldError>>);

impl Faults {
    pub fn push(&self, fault: FieldError) {
        self.0.borrow_mut().push(fault);
    }

    /// For what is read more than once.
    pub fn push_once(&self, fault: FieldError) {
        let mut faults = self.0.borrow_mut();
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.0.into_inner()
    }
}

/// A map of properties and the place it stands at.
pub struct Properties<'a> {
    map: &'a Map<String, Value>,
    path: String,
    faults: &'a Faults,
}

impl<'a> Properties<'a> {
    /// Hands the properties of a component or trait to `read`: absent ones as an empty map, numbers as KubeVela
    /// understands them. Anything but a map is a fault, and nothing is read.
    pub fn visit(value: &Value, path: &str, faults: &Faults, read: impl FnOnce(&Properties<'_>)) {
        let map = match value {
            Value::Null => Map::new(),
            Value::Object(map) => numbers::as_kubevela_reads_them(map),
            other => return faults.push(mistyped(path, "a map", other)),
        };
        read(&Properties { map: &map, path: path.to_owned(), faults });
    }

    /// The same properties, with faults told elsewhere.
    pub fn telling<'b>(&'b self, faults: &'b Faults) -> Properties<'b> {
        Properties { map: self.map, path: self.path.clone(), faults }
    }

    pub fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// All of it, as written.
    pub fn as_map(&self) -> &'a Map<String, Value> {
        self.map
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    pub fn fault(&self, name: &str, kind: FieldErrorKind, detail: impl Into<String>) {
        self.faults.push(FieldError::new(self.path_of(name), kind, detail));
    }

    /// A fault that was found elsewhere.
    pub fn tell(&self, fault: FieldError) {
        self.faults.push(fault);
    }

    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.typed(name, "a string", Value::as_str)
    }

    /// Without it the rendering is void, so the empty string does instead.
    pub fn required_text(&self, name: &str) -> &'a str {
        self.require(name);
        self.text(name).unwrap_or_default()
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub fn integer(&self, name: &str) -> Option<i64> {
        self.typed(name, "an integer", Value::as_i64)
    }

    pub fn required_integer(&self, name: &str) -> i64 {
        self.require(name);
        self.integer(name).unwrap_or_default()
    }

    /// One of a few words.
    pub fn choice(&self, name: &str, words: &[&str]) -> Option<&'a str> {
        let written = self.text(name)?;
        if words.contains(&written) {
            return Some(written);
        }
        self.fault(name, FieldErrorKind::NotSupported, known::unknown("value", written, words));
        None
    }

    pub fn properties(&self, name: &str) -> Option<Properties<'a>> {
        let map = self.typed(name, "a map", Value::as_object)?;
        Some(Properties { map, path: self.path_of(name), faults: self.faults })
    }

    /// A list of maps.
    pub fn items(&self, name: &str) -> Option<Vec<Properties<'a>>> {
        let items = self.typed(name, "a list", Value::as_array)?;
        let mut read = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(name));
            match item {
                Value::Object(map) => read.push(Properties { map, path, faults: self.faults }),
                other => self.faults.push(mistyped(&path, "a map", other)),
            }
        }
        Some(read)
    }

    /// A list of strings, as written.
    pub fn texts(&self, name: &str) -> Option<&'a Vec<Value>> {
        let items = self.typed(name, "a list", Value::as_array)?;
        for (index, item) in items.iter().enumerate().filter(|(_, item)| !item.is_string()) {
            self.faults.push(mistyped(&format!("{}[{index}]", self.path_of(name)), "a string", item));
        }
        Some(items)
    }

    /// A map of strings, as written.
    pub fn text_map(&self, name: &str) -> Option<&'a Map<String, Value>> {
        let properties = self.properties(name)?;
        properties.check_values("a string", Value::is_string);
        Some(properties.map)
    }

    /// Holds every value to be of one type.
    pub fn check_values(&self, expected: &str, holds: impl Fn(&Value) -> bool) {
        for (key, value) in self.map.iter().filter(|(_, value)| !holds(value)) {
            self.faults.push(mistyped(&format!("{}[{key}]", self.path), expected, value));
        }
    }

    pub fn require(&self, name: &str) {
        if !self.has(name) {
            self.fault(name, FieldErrorKind::Required, "");
        }
    }

    /// Holds the map to have no other properties than these.
    pub fn allow_only(&self, names: &[&str]) {
        for name in self.map.keys().filter(|name| !names.contains(&name.as_str())) {
            self.fault(name, FieldErrorKind::NotSupported, known::unknown("field", name, names));
        }
    }

    fn typed<T>(&self, name: &str, expected: &str, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.map.get(name)?;
        let typed = read(value);
        if typed.is_none() {
            self.faults.push(mistyped(&self.path_of(name), expected, value));
        }
        typed
    }
}

fn mistyped(path: &str, expected: &str, found: &Value) -> FieldError {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => format!("the boolean {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the string {:?}", text.chars().take(64).collect::<String>()),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    };
    FieldError::new(path, FieldErrorKind::TypeInvalid, format!("expected {expected}, found {found}"))
}
