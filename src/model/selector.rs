//! Label selectors: the structured form of policies and the text form of query parameters, one meaning.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// Requirements are ANDed; an empty selector matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// `Gt` and `Lt` compare integers; a label that is no integer does not match.
    Gt,
    Lt,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse selector {text:?}: {detail}")]
pub struct InvalidSelector {
    pub text: String,
    pub detail: String,
}

impl Requirement {
    /// `NotIn` matches objects that lack the key, as in Kubernetes.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => self.compares(value, |label, bound| label > bound),
            Operator::Lt => self.compares(value, |label, bound| label < bound),
        }
    }

    fn compares(&self, label: Option<&String>, holds: impl Fn(i64, i64) -> bool) -> bool {
        let label = label.and_then(|text| text.parse().ok());
        let bound = self.values.first().and_then(|text| text.parse().ok());
        label.zip(bound).is_some_and(|(label, bound)| holds(label, bound))
    }
}

impl LabelSelector {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }

    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Parses the text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let mut selector = Self::default();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() && text.trim().is_empty() {
                continue;
            }
            let requirement = parse_requirement(part)
                .map_err(|detail| InvalidSelector { text: text.chars().take(256).collect(), detail })?;
            selector.match_expressions.push(requirement);
        }
        Ok(selector)
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let expressions = self.match_expressions.iter().map(ToString::to_string);
        f.write_str(&labels.chain(expressions).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Gt => write!(f, "{key}>{values}"),
            Operator::Lt => write!(f, "{key}<{values}"),
        }
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    if let Some(key) = part.strip_prefix('!') {
        return requirement(key.trim(), Operator::DoesNotExist, vec![]);
    }
    // Longest operators first, so that `==` and `!=` are not read as `=`.
    for (sign, operator) in
        [("!=", Operator::NotIn), ("==", Operator::In), ("=", Operator::In), (">", Operator::Gt), ("<", Operator::Lt)]
    {
        if let Some((key, value)) = part.split_once(sign) {
            let value = value.trim().to_owned();
            if matches!(operator, Operator::Gt | Operator::Lt) && value.parse::<i64>().is_err() {
                return Err(format!("{value:?} is not an integer"));
            }
            return requirement(key.trim(), operator, vec![value]);
        }
    }
    if let Some((head, list)) = part.split_once('(') {
        let list = list.strip_suffix(')').ok_or("missing )")?;
        let values = list.split(',').map(|value| value.trim().to_owned()).collect();
        return match head.split_whitespace().collect::<Vec<_>>()[..] {
            [key, "in"] => requirement(key, Operator::In, values),
            [key, "notin"] => requirement(key, Operator::NotIn, values),
            _ => Err(format!("expected \"key in (…)\" or \"key notin (…)\", found {part:?}")),
        };
    }
    requirement(part, Operator::Exists, vec![])
}

fn requirement(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, String> {
    check_key(key)?;
    if !matches!(operator, Operator::Gt | Operator::Lt) {
        values.iter().try_for_each(|value| check_value(value))?;
    }
    Ok(Requirement { key: key.to_owned(), operator, values })
}

/// A label key: an optional DNS-subdomain prefix of at most 253 characters and `/`, then a name of at most 63.
/// (Kubernetes apimachinery `validation.IsQualifiedName`.)
pub fn check_key(key: &str) -> Result<(), String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_is_valid = prefix.is_none_or(|prefix| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.split('.').all(|label| is_word(label, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-"))
    });
    if prefix_is_valid && name.len() <= 63 && is_word(name, |c| c.is_ascii_alphanumeric(), "-_.") {
        Ok(())
    } else {
        Err(format!("{key:?} is not a label key"))
    }
}

/// A label value: empty, or at most 63 characters of `[A-Za-z0-9._-]` that begin and end alphanumeric.
pub fn check_value(value: &str) -> Result<(), String> {
    let valid = value.is_empty() || (value.len() <= 63 && is_word(value, |c| c.is_ascii_alphanumeric(), "-_."));
    if valid { Ok(()) } else { Err(format!("{value:?} is not a label value")) }
}

fn is_word(text: &str, edge: impl Fn(char) -> bool, inner: &str) -> bool {
    let ends = text.chars().next().zip(text.chars().next_back());
    ends.is_some_and(|(first, last)| edge(first) && edge(last)) && text.chars().all(|c| edge(c) || inner.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn text_selectors_match_as_kubernetes_reads_them() {
        let object = labels(&[("app", "web"), ("tier", "2"), ("example.com/zone", "eu-1")]);
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=2", true),
            ("app!=web", false),
            ("missing!=x", true),
            ("app in (api, web)", true),
            ("app notin (web)", false),
            ("missing notin (x)", true),
            ("example.com/zone", true),
            ("!app", false),
            ("!missing", true),
            ("tier>1", true),
            ("tier<2", false),
            ("app>1", false),
        ] {
            assert_eq!(LabelSelector::parse(text).map(|s| s.matches(&object)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faulty_selectors_are_refused() {
        for text in ["=", "a=b=c d", "a in b", "a in (b", "a,,b", "-a=b", "a=b!", "tier>x", "/a=b", "a b"] {
            assert!(LabelSelector::parse(text).is_err(), "{text}");
        }
    }
}
