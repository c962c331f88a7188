//! The `placement` policy: every fault of it, and what it says that could not be carried out.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    flow::{render::properties::Properties, schedule::expression::Expression},
    kinds::schema::check_subdomain,
    model::{
        object::FieldErrorKind::{Duplicate, Forbidden, Invalid, NotSupported, Required, TooMany},
        selector,
    },
};

use super::{
    policies::{check_clusters, check_selector},
    shortened,
};

/// Items of one list in a policy.
const ITEMS_MAX: usize = 100;
const CONSTRAINTS_MAX: usize = 4;
/// Weights, and whatever is multiplied with what a cluster says.
const WEIGHT_MAX: i64 = 1_000_000;
const COUNT_MAX: i64 = u32::MAX as i64;

/// Between two rebalances of their own accord: what moves is to be healthy, and sketches are to show it, long before.
const PERIOD_SECONDS_MIN: i64 = 60;

/// What only a divided total can be.
const OF_DIVIDED: [&str; 6] = ["division", "limits", "maxMoves", "preferences", "rebalance", "weights"];

pub fn check(placement: &Properties<'_>) {
    placement.allow_only(&[
        "affinity",
        "allOrNothing",
        "clusterSelector",
        "clusters",
        "components",
        "division",
        "expression",
        "groups",
        "limits",
        "maxMoves",
        "mode",
        "preferences",
        "priorityClassName",
        "profile",
        "rebalance",
        "spreadConstraints",
        "tolerations",
        "total",
        "weights",
    ]);
    if placement.has("mode") {
        placement.choice("mode", &["Divided", "Duplicated"]);
    } else {
        let detail =
            "Divided: replicas are a total, divided over the clusters; Duplicated: every cluster gets them in full";
        placement.fault("mode", Required, detail);
    }
    if mode_of(placement) == Some("Duplicated") {
        for name in OF_DIVIDED.into_iter().filter(|name| placement.has(name)) {
            placement.fault(name, Forbidden, "with mode Duplicated every cluster gets the replicas in full");
        }
    }
    check_clusters(placement);
    placement.texts("components");
    placement.flag("allOrNothing");
    number(placement, "total", 0);
    number(placement, "maxMoves", 0);
    if let Some(selector) = placement.properties("clusterSelector") {
        check_selector(&selector);
    }
    if let Some(Err(detail)) = placement.text("expression").map(Expression::read) {
        placement.fault("expression", Invalid, shortened(&detail));
    }
    if let Some(Err(detail)) = placement.text("profile").map(check_subdomain) {
        placement.fault("profile", Invalid, shortened(&detail));
    }
    if let Some(Err(detail)) = placement.text("priorityClassName").map(check_subdomain) {
        placement.fault("priorityClassName", Invalid, shortened(&detail));
    }
    items(placement, "groups", ITEMS_MAX).iter().for_each(|group| {
        group.allow_only(&["clusterSelector", "clusters", "name"]);
        group.text("name");
        check_target(group);
    });
    items(placement, "tolerations", ITEMS_MAX).iter().for_each(check_toleration);
    if let Some(affinity) = placement.properties("affinity") {
        check_affinity(&affinity);
    }
    if let Some(rebalance) = placement.properties("rebalance") {
        rebalance.allow_only(&["cost", "periodSeconds"]);
        number(&rebalance, "cost", 0);
        number(&rebalance, "periodSeconds", PERIOD_SECONDS_MIN);
    }
    check_spread(placement);
    check_division(placement);
    items(placement, "limits", ITEMS_MAX).iter().for_each(check_limit);
    for preference in items(placement, "preferences", ITEMS_MAX) {
        preference.allow_only(&["by", "order", "weight"]);
        preference.required_text("by");
        preference.require("order");
        preference.choice("order", &["Highest", "Lowest"]);
        number_up_to(&preference, "weight", 1, WEIGHT_MAX);
    }
}

fn mode_of<'p>(placement: &'p Properties<'_>) -> Option<&'p str> {
    placement.as_map().get("mode").and_then(Value::as_str)
}

/// Which clusters an item is for: it would be for none, or all, by accident.
fn check_target(item: &Properties<'_>) {
    let by_name = check_clusters(item);
    if let Some(selector) = item.properties("clusterSelector") {
        check_selector(&selector);
    }
    if !by_name && !item.has("clusterSelector") {
        item.fault("clusters", Required, "name clusters, or choose them by clusterSelector ({} for all)");
    }
}

fn check_toleration(toleration: &Properties<'_>) {
    toleration.allow_only(&["effect", "key", "operator", "tolerationSeconds", "value"]);
    let key = toleration.text("key").unwrap_or_default();
    let operator = toleration.choice("operator", &["Equal", "Exists"]).unwrap_or("Equal");
    let effect = toleration.choice("effect", &["NoExecute", "NoSchedule", "PreferNoSchedule"]);
    if !key.is_empty()
        && let Err(detail) = selector::check_key(key)
    {
        toleration.fault("key", Invalid, shortened(&detail));
    }
    if key.is_empty() && operator != "Exists" {
        toleration.fault("key", Required, "only with operator Exists it may be left out");
    }
    let value = toleration.text("value").unwrap_or_default();
    if operator == "Exists" && !value.is_empty() {
        toleration.fault("value", Forbidden, "no value with operator Exists");
    }
    if let Err(detail) = selector::check_value(value) {
        toleration.fault("value", Invalid, shortened(&detail));
    }
    number(toleration, "tolerationSeconds", 0);
    if toleration.has("tolerationSeconds") && effect != Some("NoExecute") {
        toleration.fault("effect", Invalid, "must be NoExecute where tolerationSeconds is set");
    }
}

/// Each term means somebody, and nobody is to be both with and apart.
fn check_affinity(affinity: &Properties<'_>) {
    affinity.allow_only(&["apart", "with"]);
    if !affinity.has("apart") && !affinity.has("with") {
        affinity.fault("with", Required, "with, apart or both");
    }
    let mut seen: Vec<(&str, Value)> = Vec::new();
    for list in ["with", "apart"] {
        for term in items(affinity, list, ITEMS_MAX) {
            term.allow_only(&["application", "selector", "topology"]);
            if term.text("application") == Some("") {
                term.fault("application", Required, "");
            }
            if let Some(selector) = term.properties("selector") {
                check_selector(&selector);
            }
            match (term.has("application"), term.has("selector")) {
                (true, true) => term.fault("selector", Forbidden, "application or selector, not both"),
                (false, false) => {
                    term.fault("application", Required, "name an application, or choose them by selector ({} for all)");
                }
                _ => {}
            }
            let topology = term.text("topology").unwrap_or("cluster");
            if let Err(detail) = selector::check_key(topology) {
                let detail = format!("cluster, region, zone, provider or a label: {}", shortened(&detail));
                term.fault("topology", Invalid, detail);
            }
            let mut whole = Value::Object(term.as_map().clone());
            whole["topology"] = topology.into();
            match seen.iter().find(|(_, known)| *known == whole) {
                Some((other, _)) if *other != list => {
                    term.fault("topology", Invalid, "the same applications are to be with and apart in one topology");
                }
                Some(_) => term.fault("topology", Duplicate, "the same term is there already"),
                None => seen.push((list, whole)),
            }
        }
    }
}

fn check_spread(placement: &Properties<'_>) {
    let mut seen = BTreeSet::new();
    for constraint in items(placement, "spreadConstraints", CONSTRAINTS_MAX) {
        constraint.allow_only(&["by", "maxGroups", "maxSkew", "minGroups"]);
        let by = constraint.required_text("by");
        if !by.is_empty() && !seen.insert(by.to_owned()) {
            constraint.fault("by", Duplicate, format!("there is a constraint by {:?} already", shortened(by)));
        }
        if !by.is_empty()
            && let Err(detail) = selector::check_key(by)
        {
            constraint.fault(
                "by",
                Invalid,
                format!("cluster, region, zone, provider or a label: {}", shortened(&detail)),
            );
        }
        let (min, max) = (number(&constraint, "minGroups", 1), number(&constraint, "maxGroups", 1));
        number(&constraint, "maxSkew", 1);
        if let Some((min, max)) = min.zip(max).filter(|(min, max)| min > max) {
            constraint.fault("maxGroups", Invalid, format!("{max} is less than minGroups, {min}"));
        }
        if !["maxGroups", "maxSkew", "minGroups"].iter().any(|name| constraint.has(name)) {
            constraint.fault("minGroups", Required, "a constraint is minGroups, maxGroups or maxSkew");
        }
        if by == "cluster" && constraint.has("maxSkew") && mode_of(placement) == Some("Duplicated") {
            constraint.fault("maxSkew", Forbidden, "with mode Duplicated no cluster has more than one copy");
        }
        let named = placement.as_map().get("clusters").and_then(Value::as_array).map(Vec::len);
        if let Some((min, named)) = min.zip(named).filter(|&(min, named)| by == "cluster" && min > named as i64) {
            constraint.fault("minGroups", Invalid, format!("{min} clusters of the {named} that are named"));
        }
    }
}

fn check_division(placement: &Properties<'_>) {
    let division = placement.choice("division", &["Aggregated", "FreeCapacity", "Weighted"]).unwrap_or("FreeCapacity");
    let mut sum = 0;
    for rule in items(placement, "weights", ITEMS_MAX) {
        rule.allow_only(&["clusterSelector", "clusters", "weight"]);
        check_target(&rule);
        rule.require("weight");
        sum += number_up_to(&rule, "weight", 0, WEIGHT_MAX).unwrap_or(1);
    }
    match (division, placement.has("weights")) {
        ("Weighted", false) => placement.fault("weights", Required, "division Weighted divides by them"),
        ("Weighted", true) if sum == 0 => {
            placement.fault("weights", Invalid, "all are zero; nobody would get anything")
        }
        ("Weighted", true) | (_, false) => {}
        (_, true) => placement.fault("weights", Forbidden, "only with division Weighted"),
    }
    if division == "Weighted" && placement.has("preferences") {
        let detail = "preferences fill one cluster before another; division Weighted gives each its part";
        placement.fault("preferences", Forbidden, detail);
    }
}

fn check_limit(limit: &Properties<'_>) {
    limit.allow_only(&["clusterSelector", "clusters", "max", "min"]);
    check_target(limit);
    let (min, max) = (number(limit, "min", 1), number(limit, "max", 0));
    if let Some((min, max)) = min.zip(max).filter(|(min, max)| min > max) {
        limit.fault("max", Invalid, format!("{max} is less than min, {min}"));
    }
    if !limit.has("min") && !limit.has("max") {
        limit.fault("max", Required, "a limit is min, max or both");
    }
}

fn items<'a>(properties: &Properties<'a>, name: &str, most: usize) -> Vec<Properties<'a>> {
    let items = properties.items(name).unwrap_or_default();
    if items.len() > most {
        properties.fault(name, TooMany, format!("{}; at most {most}", items.len()));
        return Vec::new();
    }
    items
}

fn number(properties: &Properties<'_>, name: &str, least: i64) -> Option<i64> {
    number_up_to(properties, name, least, COUNT_MAX)
}

/// `None` also where it is out of bounds, which is told.
fn number_up_to(properties: &Properties<'_>, name: &str, least: i64, most: i64) -> Option<i64> {
    let number = properties.integer(name)?;
    if (least..=most).contains(&number) {
        return Some(number);
    }
    properties.fault(name, NotSupported, format!("{number} is not between {least} and {most}"));
    None
}
