//! The sketch on the wire: shapes in columns, what they share once.

use std::collections::BTreeMap;

use super::{
    Invalid, limits,
    parts::{bounded, labels, list, message, resources, text, word},
    proto,
};
use crate::model::{
    Resources, Sketch,
    demand::Taint,
    sketch::{CLAIMS_MAX, NAMESPACES_MAX, NamespaceRules, NodeKind, SHAPES_MAX, Shape},
};

impl From<&Sketch> for proto::Sketch {
    fn from(sketch: &Sketch) -> Self {
        let mut kinds: Vec<&NodeKind> = sketch.shapes.iter().map(|shape| &shape.kind).collect();
        kinds.sort();
        kinds.dedup();
        let mut names: Vec<&String> = sketch.shapes.iter().flat_map(|shape| shape.free.0.keys()).collect();
        names.sort();
        names.dedup();
        let kind_of = |shape: &Shape| kinds.partition_point(|known| **known < shape.kind) as u32;
        let amounts = |shape: &Shape| names.iter().map(|name| shape.free.get(name)).collect::<Vec<_>>();
        Self {
            sequence: sketch.sequence,
            nodes: sketch.nodes,
            allocatable: sketch.allocatable.0.clone().into_iter().collect(),
            free: sketch.free.0.clone().into_iter().collect(),
            labels: sketch.labels.clone(),
            counts: sketch.shapes.iter().map(|shape| shape.count).collect(),
            kind_of: sketch.shapes.iter().map(kind_of).collect(),
            amounts: sketch.shapes.iter().flat_map(amounts).collect(),
            kinds: kinds.into_iter().map(Into::into).collect(),
            resources: names.into_iter().cloned().collect(),
            namespaces: sketch.namespaces.iter().map(Into::into).collect(),
            fault: sketch.fault.clone(),
        }
    }
}

/// What cannot be a sketch becomes one that is not believed: the stream goes on, and the Cluster can say why.
impl From<proto::Sketch> for Sketch {
    fn from(sketch: proto::Sketch) -> Self {
        read(sketch).unwrap_or_else(|invalid| Self::unbelieved(invalid.to_string()))
    }
}

fn read(sketch: proto::Sketch) -> Result<Sketch, Invalid> {
    bounded("shapes", SHAPES_MAX, sketch.counts.len())?;
    let shaped: u64 = sketch.counts.iter().map(|&count| u64::from(count)).sum();
    for (field, value) in [("nodes", sketch.nodes.into()), ("nodes of all shapes", shaped)] {
        if value > limits::NODES_MAX.into() {
            let (min, max) = (0, limits::NODES_MAX.into());
            return Err(Invalid::OutOfRange { field, value: value.into(), min, max });
        }
    }
    let kinds: Vec<NodeKind> = list("kinds of nodes", SHAPES_MAX, sketch.kinds, TryInto::try_into)?;
    let names = list("resources", limits::RESOURCES_MAX, sketch.resources, |name| word("resource name", name))?;
    let rows = sketch.counts.len();
    if sketch.kind_of.len() != rows || sketch.amounts.len() != rows * names.len() {
        return Err(Invalid::Malformed { field: "shapes", expected: "a kind and all amounts for each" });
    }
    let mut shapes = Vec::with_capacity(rows);
    for (row, (count, kind)) in sketch.counts.into_iter().zip(sketch.kind_of).enumerate() {
        let kind = kinds.get(kind as usize).ok_or(Invalid::Malformed { field: "shapes", expected: "a known kind" })?;
        let amounts = &sketch.amounts[row * names.len()..(row + 1) * names.len()];
        let amounts = names.iter().cloned().zip(amounts.iter().copied()).filter(|&(_, amount)| amount != 0);
        shapes.push(Shape { count, free: resources(amounts.collect())?, kind: kind.clone() });
    }
    let told = list("labels", limits::LABELS_MAX, sketch.labels, |label| text("label", limits::TEXT_BYTES_MAX, label))?;
    let namespaces = list("namespaces", NAMESPACES_MAX, sketch.namespaces, rules)?;
    Ok(Sketch {
        sequence: sketch.sequence,
        nodes: sketch.nodes,
        shapes,
        allocatable: resources(sketch.allocatable)?,
        free: resources(sketch.free)?,
        labels: told,
        namespaces: namespaces.into_iter().collect(),
        fault: message("fault", sketch.fault)?,
    })
}

impl From<&NodeKind> for proto::NodeKind {
    fn from(kind: &NodeKind) -> Self {
        let taint = |taint: &Taint| proto::Taint {
            key: taint.key.clone(),
            value: taint.value.clone(),
            effect: taint.effect.clone(),
        };
        Self {
            labels: kind.labels.clone().into_iter().collect(),
            taints: kind.taints.iter().map(taint).collect(),
            mixed: kind.mixed,
        }
    }
}

impl TryFrom<proto::NodeKind> for NodeKind {
    type Error = Invalid;

    fn try_from(kind: proto::NodeKind) -> Result<Self, Invalid> {
        let taint = |taint: proto::Taint| {
            Ok(Taint {
                key: word("taint key", taint.key)?,
                value: word("taint value", taint.value)?,
                effect: word("taint effect", taint.effect)?,
            })
        };
        Ok(Self {
            labels: labels(kind.labels)?,
            taints: list("taints", limits::TAINTS_MAX, kind.taints, taint)?,
            mixed: kind.mixed,
        })
    }
}

impl From<(&String, &NamespaceRules)> for proto::NamespaceRules {
    fn from((namespace, rules): (&String, &NamespaceRules)) -> Self {
        let claims = rules.claims.iter();
        let claims = claims.map(|(claim, zones)| proto::ClaimZones { claim: claim.clone(), zones: zones.clone() });
        Self {
            namespace: namespace.clone(),
            quota: rules.quota.0.clone().into_iter().collect(),
            defaults: rules.defaults.0.clone().into_iter().collect(),
            claims: claims.collect(),
        }
    }
}

fn rules(rules: proto::NamespaceRules) -> Result<(String, NamespaceRules), Invalid> {
    let claim = |claim: proto::ClaimZones| {
        let zones = list("zones", limits::LABELS_MAX, claim.zones, |zone| text("zone", limits::TEXT_BYTES_MAX, zone))?;
        Ok((text("claim", limits::NAME_BYTES_MAX, claim.claim)?, zones))
    };
    let claims: BTreeMap<_, _> = list("claims", CLAIMS_MAX, rules.claims, claim)?.into_iter().collect();
    let (quota, defaults): (Resources, Resources) = (resources(rules.quota)?, resources(rules.defaults)?);
    Ok((text("namespace", limits::NAME_BYTES_MAX, rules.namespace)?, NamespaceRules { quota, defaults, claims }))
}
