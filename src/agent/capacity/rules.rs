//! Rules: what bounds the pods of each namespace beside the nodes' room.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Resources,
    node::{Rule, RuleFacts, RuleKind},
    sketch::{CLAIMS_MAX, NAMESPACES_MAX, NamespaceRules},
};

type Key = (RuleKind, String, String);

#[derive(Debug, Default)]
pub struct Rules {
    rules: BTreeMap<Key, RuleFacts>,
    /// Which rules concern a namespace.
    concerned: BTreeMap<String, BTreeSet<Key>>,
    /// Namespace → what its rules come to.
    namespaces: BTreeMap<String, NamespaceRules>,
}

impl Rules {
    /// Whether anything is another than before; so with the others.
    pub fn reset(&mut self, kind: RuleKind, rules: Vec<RuleFacts>) -> bool {
        let fresh: BTreeMap<Key, RuleFacts> = rules.into_iter().map(|rule| (key_of(kind, &rule), rule)).collect();
        let gone: Vec<Key> =
            self.rules.keys().filter(|key| key.0 == kind && !fresh.contains_key(*key)).cloned().collect();
        let changes = gone.into_iter().map(|key| (key, None));
        let changes: Vec<_> = changes.chain(fresh.into_iter().map(|(key, rule)| (key, Some(rule)))).collect();
        changes.into_iter().fold(false, |changed, (key, rule)| self.replace(key, rule) | changed)
    }

    pub fn put(&mut self, kind: RuleKind, rule: RuleFacts) -> bool {
        self.replace(key_of(kind, &rule), Some(rule))
    }

    pub fn remove(&mut self, key: Key) -> bool {
        let (kind, _, name) = &key;
        // A volume is known by its name alone: the claim that it was bound to may have changed.
        let key = if *kind == RuleKind::Volume { (*kind, String::new(), name.clone()) } else { key };
        self.replace(key, None)
    }

    fn replace(&mut self, key: Key, rule: Option<RuleFacts>) -> bool {
        let old = match &rule {
            Some(rule) => self.rules.insert(key.clone(), rule.clone()),
            None => self.rules.remove(&key),
        };
        if old == rule {
            return false;
        }
        if let Some(keys) = old.as_ref().and_then(|old| self.concerned.get_mut(&old.namespace)) {
            keys.remove(&key);
        }
        if let Some(rule) = &rule {
            self.concerned.entry(rule.namespace.clone()).or_default().insert(key);
        }
        let namespaces: BTreeSet<String> = old.iter().chain(&rule).map(|rule| rule.namespace.clone()).collect();
        namespaces.into_iter().fold(false, |changed, namespace| self.refresh(namespace) | changed)
    }

    fn refresh(&mut self, namespace: String) -> bool {
        // A volume that nobody claims bounds nobody.
        if namespace.is_empty() {
            return false;
        }
        let mut sum = NamespaceRules::default();
        let concerned = self.concerned.get(&namespace).into_iter().flatten();
        for rule in concerned.filter_map(|key| self.rules.get(key)) {
            match &rule.rule {
                Rule::Quota(left) => lower(&mut sum.quota, left),
                Rule::Defaults(defaults) => sum.defaults.0.extend(defaults.0.clone()),
                Rule::Zones { claim, zones } if !zones.is_empty() && sum.claims.len() < CLAIMS_MAX => {
                    sum.claims.insert(claim.clone(), zones.clone());
                }
                Rule::Zones { .. } => {}
            }
        }
        if self.concerned.get(&namespace).is_some_and(BTreeSet::is_empty) {
            self.concerned.remove(&namespace);
        }
        match sum.is_empty() {
            true => self.namespaces.remove(&namespace).is_some(),
            false => self.namespaces.insert(namespace, sum.clone()).as_ref() != Some(&sum),
        }
    }

    pub fn told(&self, hosted: &BTreeSet<&str>) -> BTreeMap<String, NamespaceRules> {
        let is_hosted = |name: &str| hosted.contains(name);
        let first = self.namespaces.iter().filter(|(name, _)| is_hosted(name));
        let rest = self.namespaces.iter().filter(|(name, _)| !is_hosted(name));
        first.chain(rest).take(NAMESPACES_MAX).map(|(name, rules)| (name.clone(), rules.clone())).collect()
    }
}

fn key_of(kind: RuleKind, rule: &RuleFacts) -> Key {
    let namespace = if kind == RuleKind::Volume { String::new() } else { rule.namespace.clone() };
    (kind, namespace, rule.name.clone())
}

/// Several quotas bound together: each resource by the one that leaves least.
fn lower(quota: &mut Resources, left: &Resources) {
    for (name, &left) in &left.0 {
        let known = quota.0.entry(name.clone()).or_insert(left);
        *known = left.min(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(namespace: &str, name: &str, cpu: i64) -> RuleFacts {
        let rule = Rule::Quota(Resources::of([("cpu", cpu)]));
        RuleFacts { namespace: namespace.into(), name: name.into(), rule }
    }

    fn volume(namespace: &str, claim: &str, zones: &[&str]) -> RuleFacts {
        let zones = zones.iter().map(|&zone| zone.to_owned()).collect();
        RuleFacts { namespace: namespace.into(), name: "pv".into(), rule: Rule::Zones { claim: claim.into(), zones } }
    }

    #[test]
    fn the_rules_of_a_namespace_come_together() {
        let mut rules = Rules::default();
        assert!(rules.reset(RuleKind::Quota, vec![quota("shop", "a", 500), quota("shop", "b", 300)]));
        let told = |rules: &Rules| rules.told(&BTreeSet::new());
        assert_eq!(told(&rules)["shop"].quota.get("cpu"), 300);
        assert!(!rules.put(RuleKind::Quota, quota("shop", "a", 400)), "the other one leaves less");
        assert!(rules.remove((RuleKind::Quota, "shop".into(), "b".into())));
        assert_eq!(told(&rules)["shop"].quota.get("cpu"), 400);
        assert!(rules.put(RuleKind::Volume, volume("shop", "data", &["z1"])));
        assert!(rules.put(RuleKind::Volume, volume("blog", "data", &["z1"])), "the volume went to another namespace");
        assert!(told(&rules)["shop"].claims.is_empty() && !told(&rules)["blog"].claims.is_empty());
        assert!(
            !rules.put(
                RuleKind::LimitRange,
                RuleFacts { rule: Rule::Defaults(Resources::default()), ..quota("x", "l", 0) }
            )
        );
        assert!(rules.remove((RuleKind::Volume, "blog".into(), "pv".into())));
        assert!(rules.reset(RuleKind::Quota, vec![]));
        assert!(told(&rules).is_empty());
    }

    #[test]
    fn those_that_are_hosted_are_told_of_first() {
        let mut rules = Rules::default();
        let many = (0..2 * NAMESPACES_MAX).map(|n| quota(&format!("n{n:04}"), "q", 1)).collect();
        rules.reset(RuleKind::Quota, many);
        let told = rules.told(&["n0500"].into());
        assert_eq!((told.len(), told.contains_key("n0500"), told.contains_key("n0000")), (NAMESPACES_MAX, true, true));
    }
}
