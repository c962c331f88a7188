//! PlacementProfiles: every fault that their schema cannot say.

use serde_json::Value;

use super::{ordered, shortened};
use crate::{
    flow::{
        render::properties::{Faults, Properties},
        schedule::expression::Expression,
    },
    kinds::profile::TEXT_MAX,
    model::{
        FieldError,
        object::FieldErrorKind::{Duplicate, Forbidden, Invalid, Required, TooLong},
    },
};

/// By type of a rule: what it has beside `type` and, for scores, `weight`.
type Fields = &'static [(&'static str, &'static [&'static str])];

const FILTERS: Fields =
    &[("Expression", &["expression", "message"]), ("Headroom", &["percent"]), ("Taints", &["enabled"])];
const SCORES: Fields = &[
    ("Balanced", &[]),
    ("Expression", &["expression"]),
    ("LeastAllocated", &[]),
    ("MostAllocated", &[]),
    ("Property", &["best", "property", "worst"]),
];

/// All faults in order of their paths; types and bounds are taken as checked by the schema.
pub fn admit_profile(profile: &Value, _: Option<&Value>) -> Vec<FieldError> {
    let faults = Faults::default();
    Properties::visit(&profile["spec"], "spec", &faults, |spec| {
        check(spec, "filters", FILTERS, &["type"]);
        check(spec, "scores", SCORES, &["type", "weight"]);
        for score in spec.items("scores").into_iter().flatten() {
            if let (Some(worst), Some(best)) = (score.integer("worst"), score.integer("best"))
                && worst == best
            {
                score.fault("best", Invalid, format!("{best} is the worst, too; nothing lies between them"));
            }
        }
    });
    ordered(faults.into_vec())
}

fn check(spec: &Properties<'_>, list: &str, fields: Fields, common: &[&str]) {
    let mut once = Vec::new();
    for rule in spec.items(list).into_iter().flatten() {
        let type_ = rule.text("type").unwrap_or("Expression");
        let Some((_, own)) = fields.iter().find(|(known, _)| *known == type_) else { continue };
        for name in own.iter().filter(|name| !rule.has(name)) {
            rule.fault(name, Required, format!("{type_} needs it"));
        }
        for name in rule.as_map().keys().map(String::as_str) {
            if !own.contains(&name) && !common.contains(&name) {
                rule.fault(name, Forbidden, format!("{type_} has no such thing"));
            }
        }
        if list == "filters" && type_ != "Expression" && once.contains(&type_) {
            rule.fault("type", Duplicate, format!("there is a rule of type {type_} already"));
        }
        once.push(type_);
        for name in ["message", "property"] {
            match rule.text(name) {
                Some("") => rule.fault(name, Required, ""),
                Some(text) if text.len() > TEXT_MAX => rule.fault(name, TooLong, format!("at most {TEXT_MAX} bytes")),
                _ => {}
            }
        }
        if let Some(Err(detail)) = rule.text("expression").map(Expression::read) {
            rule.fault("expression", Invalid, shortened(&detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_fault_of_a_profile_is_told_with_its_field() {
        let fine = json!({"spec": {
            "filters": [
                {"type": "Expression", "expression": "properties.cost < 5", "message": "too dear"},
                {"type": "Headroom", "percent": 10},
                {"type": "Taints", "enabled": false},
            ],
            "scores": [
                {"type": "LeastAllocated", "weight": 2},
                {"type": "Property", "property": "cost", "worst": 10, "best": 1, "weight": 1},
                {"type": "Expression", "expression": "free.cpu / 1000", "weight": 1},
            ],
        }});
        assert_eq!(admit_profile(&fine, None), []);
        let faulty = json!({"spec": {
            "filters": [
                {"type": "Expression", "expression": "labels.all(x, true)", "message": ""},
                {"type": "Headroom", "enabled": true},
                {"type": "Headroom", "percent": 3},
                {"type": "Taints"},
            ],
            "scores": [
                {"type": "Balanced", "expression": "1"},
                {"type": "Property", "property": "", "worst": 3, "best": 3},
            ],
        }});
        let paths: Vec<String> = admit_profile(&faulty, None).into_iter().map(|fault| fault.path).collect();
        let expected = [
            "spec.filters[0].expression",
            "spec.filters[0].message",
            "spec.filters[1].enabled",
            "spec.filters[1].percent",
            "spec.filters[2].type",
            "spec.filters[3].enabled",
            "spec.scores[0].expression",
            "spec.scores[1].best",
            "spec.scores[1].property",
        ];
        assert_eq!(paths, expected);
    }
}
