//! Field selectors, and the labels that label selectors look at.

use std::collections::BTreeMap;

use serde_json::Value;

use super::status::{Refusal, Result};
use crate::kinds::Kind;

/// Requirements are ANDed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    /// `metadata.name`, or one of the kind's selectable fields.
    field: String,
    value: String,
    equal: bool,
}

impl FieldSelector {
    /// `a=b,c==d,e!=f`; a backslash escapes `,`, `=` and itself in values.
    pub fn parse(text: &str, kind: &Kind) -> Result<Self> {
        let mut requirements = vec![];
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let found = ["!=", "==", "="].into_iter().find_map(|sign| Some((sign, term.split_once(sign)?)));
            let Some((sign, (field, value))) = found else {
                return Err(Refusal::bad_request(format!(
                    "invalid selector: {text:?}; can't understand {term:?}: expected FIELD=VALUE or FIELD!=VALUE"
                )));
            };
            let field = field.trim();
            let known = ["metadata.name", "metadata.namespace"].contains(&field)
                || kind.selectable.iter().any(|selectable| selectable == field);
            if !known {
                return Err(Refusal::bad_request(format!("field label not supported: {field}")));
            }
            requirements.push(Requirement { field: field.to_owned(), value: unescape(value)?, equal: sign != "!=" });
        }
        Ok(Self(requirements))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn require_name(&mut self, name: &str) {
        self.0.push(Requirement { field: "metadata.name".into(), value: name.to_owned(), equal: true });
    }

    /// The one name that can match, where the selector asks for one.
    pub fn name(&self) -> Option<&str> {
        let named = |requirement: &&Requirement| requirement.field == "metadata.name" && requirement.equal;
        self.0.iter().find(named).map(|requirement| requirement.value.as_str())
    }

    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|requirement| (text_of(object, &requirement.field) == requirement.value) == requirement.equal)
    }
}

/// What a dotted field holds, as selectors compare it: absent is the empty text.
fn text_of(object: &Value, field: &str) -> String {
    // The one field whose name in selectors is not its path (core/v1 Event).
    let field = if field == "source" { "source.component" } else { field };
    match field.split('.').try_fold(object, |value, name| value.get(name)) {
        Some(Value::String(text)) => text.clone(),
        Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        _ => String::new(),
    }
}

pub fn labels_of(object: &Value) -> BTreeMap<String, String> {
    let labels = object["metadata"]["labels"].as_object();
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (vec![], 0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> Result<String> {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, true) => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                _ => return Err(Refusal::bad_request(format!("invalid selector: {text:?}: unknown escape sequence"))),
            },
            (',' | '=', false) => {
                return Err(Refusal::bad_request(format!("invalid selector: {text:?}: unescaped character {c:?}")));
            }
            (c, false) => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    fn matches(text: &str) -> Option<bool> {
        let object = json!({"metadata": {"name": "a,b", "namespace": "n"}, "type": "Warning",
                            "source": {"component": "hub"}, "involvedObject": {"kind": "Application"}});
        FieldSelector::parse(text, &kinds::EVENT).ok().map(|selector| selector.matches(&object))
    }

    #[test]
    fn field_selectors_match_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("", Some(true)),
            ("metadata.name=a\\,b", Some(true)),
            ("metadata.name==a\\,b,metadata.namespace=n", Some(true)),
            ("metadata.namespace!=n", Some(false)),
            ("involvedObject.kind=Application,type!=Normal", Some(true)),
            ("involvedObject.uid=", Some(true)),
            ("source=hub", Some(true)),
            ("spec.x=1", None),
            ("metadata.name", None),
            ("metadata.name=a=b", None),
            ("metadata.name=a\\x", None),
        ] {
            assert_eq!(matches(text), expected, "{text}");
        }
    }
}
