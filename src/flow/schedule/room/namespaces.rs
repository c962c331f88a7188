//! Namespaces: what their quotas leave, and what their LimitRanges make of a demand.

use std::borrow::Cow;

use super::{Room, bounds};
use crate::model::Demand;

impl Room {
    /// Whether something beside room bounds the pods of this namespace here: where nothing does, demands that differ in
    /// their namespace only are the same.
    pub fn has_rules(&self, namespace: &str) -> bool {
        self.frame.namespaces.contains_key(namespace)
    }

    /// What the member makes of a demand: LimitRanges fill in what it leaves unsaid.
    pub(super) fn granted<'d>(&self, demand: &'d Demand) -> Cow<'d, Demand> {
        let rules = self.frame.namespaces.get(&demand.namespace);
        match rules.filter(|rules| !rules.defaults.is_empty() && !demand.unsaid.is_empty()) {
            Some(rules) => Cow::Owned(bounds::granted(demand, &rules.defaults)),
            None => Cow::Borrowed(demand),
        }
    }

    /// How many replicas the quotas of its namespace leave room for; `None` where they bound nothing.
    pub(super) fn by_quota(&self, demand: &Demand) -> Option<u64> {
        let left = self.quotas.get(&demand.namespace)?;
        let fits = |(name, &left): (&String, &i64)| bounds::by_quota(demand, name, left);
        left.0.iter().filter_map(fits).min()
    }

    pub(super) fn lack_of_quota(&self, demand: &Demand) -> Option<String> {
        let left = self.quotas.get(&demand.namespace)?;
        let spent = left.0.iter().find(|(name, left)| bounds::by_quota(demand, name, **left) == Some(0))?.0;
        let namespace = &demand.namespace;
        Some(match bounds::asked_of_quota(demand, spent) {
            0 => format!("a quota of namespace {namespace} bounds {spent}, and the pods do not say theirs"),
            _ => format!("a quota of namespace {namespace} leaves too little {spent}"),
        })
    }

    pub(super) fn charge(&mut self, demand: &Demand, replicas: u32, sign: i64) {
        let Some(left) = self.quotas.get_mut(&demand.namespace) else { return };
        for (name, left) in &mut left.0 {
            let amount = bounds::asked_of_quota(demand, name).saturating_mul(replicas.into());
            *left = left.saturating_add(amount.saturating_mul(sign));
        }
    }
}
