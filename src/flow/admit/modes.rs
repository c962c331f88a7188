//! What an edit makes of replicas: a number that was a total must not turn into one for every cluster unsaid.

use serde_json::Value;

use crate::{
    flow::schedule::mode_of,
    model::{
        Application, FieldError,
        application::{Mode, PlacementPolicy},
        object::FieldErrorKind::{Invalid, Required},
        revision::Rendered,
    },
};

use super::shortened;

/// Where an edit changes the mode of a component from or to Divided, its policy says the total that comes of it.
pub fn check_change(old: &Application, new: &Application, faults: &mut Vec<FieldError>) {
    let mut told = std::collections::BTreeSet::new();
    for component in &new.spec.components {
        if !old.spec.components.iter().any(|known| known.name == component.name) {
            continue;
        }
        let modes = [old, new].map(|application| mode_of(&application.spec.policies, &component.name));
        if modes[0] == modes[1] || !modes.contains(&"Divided") {
            continue;
        }
        let detail = format!(
            "replicas of {:?} turn from {} to {}: say what they come to in all clusters together",
            shortened(&component.name),
            meaning(modes[0]),
            meaning(modes[1])
        );
        match placement_of(new, &component.name) {
            Some((_, policy)) if policy.total.is_some() => {}
            Some((index, _)) if told.insert(index) => {
                faults.push(FieldError::new(format!("spec.policies[{index}].properties.total"), Required, detail));
            }
            Some(_) => {}
            None => {
                let detail = format!("{detail}, in a placement policy with mode Duplicated and total");
                faults.push(FieldError::new("spec.policies", Required, detail));
            }
        }
    }
}

/// A total that is said of divided components is what their replicas sum to.
pub fn check_totals(application: &Application, rendered: &Rendered, faults: &mut Vec<FieldError>) {
    for (index, policy) in placements(application) {
        let Some(total) = policy.total.filter(|_| policy.mode == Mode::Divided) else { continue };
        let meant = |name: &String| policy.components.is_empty() || policy.components.contains(name);
        let components = rendered.components.iter().filter(|component| meant(&component.name));
        let replicas = components.filter_map(|component| component.replicas.as_ref());
        let sum: u64 = replicas.map(|replicas| u64::from(replicas.count)).sum();
        if sum != total {
            let detail = format!("{total}, and the replicas of its components sum to {sum}");
            faults.push(FieldError::new(format!("spec.policies[{index}].properties.total"), Invalid, detail));
        }
    }
}

fn meaning(mode: &str) -> &'static str {
    match mode {
        "Divided" => "a total (Divided)",
        "Duplicated" => "those of every cluster (Duplicated)",
        _ => "those of one cluster",
    }
}

fn placement_of(application: &Application, component: &str) -> Option<(usize, PlacementPolicy)> {
    let names = |policy: &PlacementPolicy| {
        policy.components.is_empty() || policy.components.iter().any(|name| name == component)
    };
    placements(application).find(|(_, policy)| names(policy))
}

fn placements(application: &Application) -> impl Iterator<Item = (usize, PlacementPolicy)> {
    let policies = application.spec.policies.iter().enumerate().filter(|(_, policy)| policy.type_ == "placement");
    policies.filter_map(|(index, policy)| {
        let properties: &Value = &policy.properties;
        Some((index, serde_json::from_value(properties.clone()).ok()?))
    })
}
