//! Simulated nodes and the scheduler that binds pods to them.

use std::collections::BTreeMap;

use super::template::Template;
use crate::model::{
    NodeFacts, Resources,
    quantity::{CPU, MEMORY, PODS},
};

#[derive(Debug, Default)]
pub struct Nodes(BTreeMap<String, Node>);

#[derive(Debug)]
struct Node {
    facts: NodeFacts,
    used: Resources,
}

impl Nodes {
    pub fn put(&mut self, facts: NodeFacts) {
        let used = self.0.remove(&facts.name).map(|node| node.used).unwrap_or_default();
        self.0.insert(facts.name.clone(), Node { facts, used });
    }

    pub fn remove(&mut self, name: &str) -> bool {
        self.0.remove(name).is_some()
    }

    pub fn facts(&self) -> impl Iterator<Item = &NodeFacts> {
        self.0.values().map(|node| &node.facts)
    }

    pub fn get(&self, name: &str) -> Option<&NodeFacts> {
        self.0.get(name).map(|node| &node.facts)
    }

    /// Nodes where more is asked for than there is.
    pub fn oversubscribed(&self) -> impl Iterator<Item = &str> {
        let over = |node: &&Node| node.used.0.iter().any(|(name, used)| *used > node.facts.allocatable.get(name));
        self.0.values().filter(over).map(|node| node.facts.name.as_str())
    }

    /// Nodes that a DaemonSet with this template runs on.
    pub fn admitting(&self, template: &Template) -> impl Iterator<Item = &str> {
        self.0.values().filter(|node| node.objection(template).is_none()).map(|node| node.facts.name.as_str())
    }

    pub fn bind(&mut self, node: &str, template: &Template) {
        self.count(node, template, 1);
    }

    pub fn release(&mut self, node: &str, template: &Template) {
        self.count(node, template, -1);
    }

    fn count(&mut self, node: &str, template: &Template, times: i64) {
        if let Some(node) = self.0.get_mut(node) {
            node.used.add(&template.demand.requests, times);
            node.used.add(&Resources::of([(PODS, 1)]), times);
        }
    }

    /// The node with the largest part left free afterwards (ties end in the name), or why there is none, as
    /// kube-scheduler words it.
    pub fn choose(&self, template: &Template, pinned: Option<&str>) -> Result<String, String> {
        let candidates = self.0.values().filter(|node| pinned.is_none_or(|name| node.facts.name == name));
        let mut best: Option<(i64, &str)> = None;
        let (mut reasons, mut helpless) = (BTreeMap::<String, usize>::new(), 0);
        for node in candidates {
            let objection = node.objection(template);
            helpless += usize::from(objection.is_some());
            let faults = objection.map_or_else(|| node.insufficient(template), |objection| vec![objection]);
            if faults.is_empty() {
                let score = node.free_permille(template);
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, &node.facts.name));
                }
            }
            for fault in faults {
                *reasons.entry(fault).or_default() += 1;
            }
        }
        best.map(|(_, name)| name.to_owned()).ok_or_else(|| refusal(self.0.len(), &reasons, helpless))
    }
}

impl Node {
    /// Why pods of this template may not run here, whatever is free.
    fn objection(&self, template: &Template) -> Option<String> {
        let demand = &template.demand;
        let tolerates = |taint: &&_| !demand.tolerations.iter().any(|toleration| toleration.tolerates(taint));
        if !self.facts.schedulable {
            return Some("node(s) were unschedulable".into());
        }
        if let Some(taint) = self.facts.taints.iter().filter(|taint| taint.repels()).find(tolerates) {
            return Some(format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value));
        }
        let selected = demand.node_selector.iter().all(|(key, value)| self.facts.labels.get(key) == Some(value));
        (!selected).then(|| "node(s) didn't match Pod's node affinity/selector".into())
    }

    fn free(&self, name: &str) -> i64 {
        self.facts.allocatable.get(name) - self.used.get(name)
    }

    fn insufficient(&self, template: &Template) -> Vec<String> {
        let mut scarce = Vec::new();
        if self.free(PODS) < 1 {
            scarce.push("Too many pods".to_owned());
        }
        let asked = template.demand.requests.0.iter().filter(|&(_, &amount)| amount > 0);
        let lacking = asked.filter(|&(name, &amount)| self.free(name) < amount);
        scarce.extend(lacking.map(|(name, _)| format!("Insufficient {name}")));
        scarce
    }

    fn free_permille(&self, template: &Template) -> i64 {
        let part = |name: &str| {
            let left = self.free(name) - template.demand.requests.get(name);
            left.max(0).saturating_mul(1000) / self.facts.allocatable.get(name).max(1)
        };
        part(CPU) + part(MEMORY) + part(PODS)
    }
}

fn refusal(nodes: usize, reasons: &BTreeMap<String, usize>, helpless: usize) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    // Sorted as text, counts included, as kube-scheduler does.
    let mut words = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect::<Vec<_>>();
    words.sort();
    let words = words.join(", ");
    let victims = match (nodes - helpless, helpless) {
        (0, helpless) => format!("{helpless} Preemption is not helpful for scheduling"),
        (full, 0) => format!("{full} No preemption victims found for incoming pod"),
        (full, helpless) => format!(
            "{full} No preemption victims found for incoming pod, {helpless} Preemption is not helpful for scheduling"
        ),
    };
    format!("0/{nodes} nodes are available: {words}. preemption: 0/{nodes} nodes are available: {victims}.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::demand::Taint;

    fn node(name: &str, cpu: i64) -> NodeFacts {
        let allocatable = Resources::of([(CPU, cpu), (MEMORY, 8 << 30), (PODS, 110)]);
        NodeFacts { name: name.into(), allocatable, schedulable: true, ..NodeFacts::default() }
    }

    fn template(cpu: &str) -> Template {
        Template::of(&json!({"spec": {"containers": [
            {"name": "c", "image": "x", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]}}))
    }

    #[test]
    fn pods_spread_by_what_is_left_free() {
        let mut nodes = Nodes::default();
        nodes.put(node("a", 4000));
        nodes.put(node("b", 4000));
        let chosen = (0..4).map(|_| {
            let name = nodes.choose(&template("1"), None).expect("room");
            nodes.bind(&name, &template("1"));
            name
        });
        assert_eq!(chosen.collect::<Vec<_>>(), ["a", "b", "a", "b"]);
        assert_eq!(nodes.oversubscribed().count(), 0);
    }

    #[test]
    fn refusals_read_as_kube_scheduler_words_them() {
        let mut nodes = Nodes::default();
        assert_eq!(nodes.choose(&template("1"), None), Err("no nodes available to schedule pods".into()));
        nodes.put(node("a", 500));
        nodes.put(node("b", 500));
        let taint = Taint { key: "gpu".into(), value: "yes".into(), effect: "NoSchedule".into() };
        nodes.put(NodeFacts { taints: vec![taint], ..node("c", 4000) });
        assert_eq!(
            nodes.choose(&template("1"), None).expect_err("no room"),
            "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 2 Insufficient cpu. preemption: 0/3 \
             nodes are available: 2 No preemption victims found for incoming pod, 1 Preemption is not helpful for \
             scheduling."
        );
    }
}
