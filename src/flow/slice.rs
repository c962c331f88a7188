//! Slice: a solution → rows with the removals it orders, and rows → works.
//!
//! Owns: what a work lists, what it removes, and when its generation goes up. Must never: order a removal of what no
//! revision, earlier removal or report of this very Application named.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::schedule::Solution;
use crate::model::{
    Digest, ObjectRef, Placement, Report, Uid, Work,
    placement::{Patch, Row, Share},
    pointer,
    report::ObjectState,
    revision::{RenderedComponent, Revision},
    work::{Manifest, PLACEMENT_AUTHOR, Removal, RemovalReason},
};

/// What the next placement is made from, beside the solution.
pub struct Change<'a> {
    pub previous: &'a Placement,
    /// What every row that still runs something is to run, and its name.
    pub revision: (&'a str, &'a Revision),
    /// Finds the revisions that previous rows run.
    pub revisions: &'a dyn Fn(&str) -> Option<&'a Revision>,
    pub reports: &'a BTreeMap<Uid, Arc<Report>>,
    /// Names of clusters that have a part in the solution.
    pub names: &'a dyn Fn(&Uid) -> String,
    /// Clusters whose part is dropped without removals: orphaned by the deletion of their Cluster, or forgotten.
    pub dropped: &'a BTreeSet<Uid>,
    /// Clusters that are being drained, and by whose request.
    pub drained: &'a BTreeMap<Uid, Cause<'a>>,
    /// Clusters where a person agreed that it loses what nobody named (rule 14), and who: the agent asks for a person's
    /// word as the hub does.
    pub agreed: &'a BTreeMap<Uid, &'a str>,
    /// The Application was deleted by name.
    pub deleted: Option<Cause<'a>>,
    /// The last change of the Application: of what its newest revision no longer lists.
    pub changed: Cause<'a>,
}

/// The request that something follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cause<'a> {
    /// The user.
    pub author: &'a str,
    /// Trace id.
    pub trace: &'a str,
}

impl<'a> Change<'a> {
    /// Why something goes from a cluster, and of whose doing. `placed_elsewhere`: its component is still in the revision.
    fn removal(&self, cluster: &Uid, placed_elsewhere: bool) -> (RemovalReason, &'a str) {
        match (self.deleted, self.drained.get(cluster)) {
            (Some(deleted), _) => (RemovalReason::ApplicationDeleted, deleted.author),
            (None, Some(drained)) => (RemovalReason::ClusterDrained, drained.author),
            (None, None) if placed_elsewhere => {
                (RemovalReason::PlacedElsewhere, self.agreed.get(cluster).copied().unwrap_or(PLACEMENT_AUTHOR))
            }
            (None, None) => (RemovalReason::NotInRevision, self.changed.author),
        }
    }

    fn trace(&self, cluster: &Uid) -> &'a str {
        self.deleted.as_ref().or(self.drained.get(cluster)).unwrap_or(&self.changed).trace
    }
}

/// The next placement. Equal to the previous one but for `decision` where nothing changed: rows whose content did not
/// change keep their generation, so an agent is sent nothing.
pub fn place(change: &Change<'_>, solution: Solution) -> Placement {
    let decision = change.previous.decision + 1;
    let Solution { mut shares, refusals, unplaced, moves, .. } = solution;
    let mut rows = Vec::new();
    for old in &change.previous.rows {
        let components = shares.remove(&old.cluster).unwrap_or_default();
        if !change.dropped.contains(&old.cluster) {
            rows.extend(next_row(change, Some(old), &old.cluster, components, decision));
        }
    }
    for (cluster, components) in shares {
        rows.extend(next_row(change, None, &cluster, components, decision));
    }
    rows.sort_by(|one, other| (&one.cluster_name, &one.cluster).cmp(&(&other.cluster_name, &other.cluster)));
    Placement {
        application: change.previous.application.clone(),
        application_uid: change.previous.application_uid.clone(),
        decision,
        rows,
        refusals,
        unplaced,
        moves,
        rebalanced: change.previous.rebalanced.clone(),
        claims: Vec::new(),
        preempted: BTreeMap::new(),
    }
}

/// `None` once nothing runs and every removal is confirmed.
fn next_row(
    change: &Change<'_>,
    old: Option<&Row>,
    cluster: &Uid,
    components: BTreeMap<String, Share>,
    decision: u64,
) -> Option<Row> {
    let removals = old.map(|old| removals(change, old, &components)).unwrap_or_default();
    if components.is_empty() && removals.is_empty() {
        return None;
    }
    // A row that only removes keeps naming the revision it last ran: the newest one may never have been there.
    let revision = match old {
        Some(old) if components.is_empty() => old.revision.clone(),
        _ => change.revision.0.to_owned(),
    };
    let row = Row {
        cluster: cluster.clone(),
        cluster_name: old.map_or_else(|| (change.names)(cluster), |old| old.cluster_name.clone()),
        generation: decision,
        revision,
        components,
        removals,
        trace: change.trace(cluster).to_owned(),
    };
    match old {
        Some(old) if same_content(old, &row) => {
            Some(Row { generation: old.generation, trace: old.trace.clone(), ..row })
        }
        _ => Some(row),
    }
}

/// Whether both make the same work; reasons are for people and not part of it.
fn same_content(one: &Row, other: &Row) -> bool {
    let replicas = |row: &Row| -> Vec<(String, Option<u32>)> {
        row.components.iter().map(|(name, share)| (name.clone(), share.replicas)).collect()
    };
    one.revision == other.revision && one.removals == other.removals && replicas(one) == replicas(other)
}

/// Objects this Application had in the cluster that the new work no longer lists.
fn removals(change: &Change<'_>, old: &Row, components: &BTreeMap<String, Share>) -> Vec<Removal> {
    let report = change.reports.get(&old.cluster).map(Arc::as_ref);
    let confirmed = confirmed(old, report);
    let listed: BTreeSet<&ObjectRef> = match components.is_empty() {
        true => BTreeSet::new(),
        false => objects(change.revision.1, components).collect(),
    };
    let order = |object: &ObjectRef, component: Option<&str>| {
        let is_known = |name: &str| change.revision.1.components.iter().any(|known| known.name == name);
        let elsewhere = component.is_some_and(|name| !components.contains_key(name) && is_known(name));
        let (reason, author) = change.removal(&old.cluster, elsewhere);
        Removal { object: object.clone(), uid: None, revision: old.revision.clone(), reason, author: author.to_owned() }
    };

    let mut ordered: BTreeMap<ObjectRef, Removal> = BTreeMap::new();
    // Ordered earlier and not yet done; the first reason stays, for it is why the object goes.
    for removal in old.removals.iter().filter(|removal| !confirmed.contains(&removal.object)) {
        ordered.insert(removal.object.clone(), removal.clone());
    }
    if let Some(revision) = (change.revisions)(&old.revision) {
        for component in revision.components.iter().filter(|known| old.components.contains_key(&known.name)) {
            for manifest in &component.manifests {
                let order = || order(&manifest.object, Some(&component.name));
                ordered.entry(manifest.object.clone()).or_insert_with(order);
            }
        }
    }
    // What the agent still holds of earlier generations, in case those never were a row's revision here.
    for object in report.iter().flat_map(|report| &report.objects) {
        let ours = matches!(object.state, ObjectState::Applied | ObjectState::Paused);
        if ours && !confirmed.contains(&object.object) {
            ordered.entry(object.object.clone()).or_insert_with(|| order(&object.object, None));
        }
    }
    ordered.retain(|object, _| !listed.contains(object));
    let uids: BTreeMap<&ObjectRef, &Uid> = report
        .iter()
        .flat_map(|report| &report.objects)
        .filter_map(|object| Some((&object.object, object.uid.as_ref()?)))
        .collect();
    ordered
        .into_values()
        .map(|removal| {
            let uid = removal.uid.clone().or_else(|| uids.get(&removal.object).copied().cloned());
            Removal { uid, ..removal }
        })
        .collect()
}

/// Removals of this very generation that the agent says are done.
pub fn confirmed<'r>(row: &Row, report: Option<&'r Report>) -> BTreeSet<&'r ObjectRef> {
    match report {
        Some(report) if report.generation == row.generation => report.removed.iter().collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether the agent has done all that was asked of it to remove; silence is never a yes.
pub fn all_confirmed(row: &Row, report: Option<&Report>) -> bool {
    let confirmed = confirmed(row, report);
    row.removals.iter().all(|removal| confirmed.contains(&removal.object))
}

fn objects<'a>(revision: &'a Revision, components: &'a BTreeMap<String, Share>) -> impl Iterator<Item = &'a ObjectRef> {
    let here = revision.components.iter().filter(|component| components.contains_key(&component.name));
    here.flat_map(|component| &component.manifests).map(|manifest| &manifest.object)
}

/// Digests of patched manifests. Remembered by (blob, patches), so that a thousand clusters with the same replicas
/// cost one digest.
#[derive(Debug, Default)]
pub struct Results {
    known: BTreeMap<(Digest, String), Digest>,
}

/// Beyond this many remembered digests all are forgotten: they cost only time to make again.
const RESULTS_MAX: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("blob {0} is missing")]
    MissingBlob(Digest),
    #[error("blob {0} is not JSON")]
    NotJson(Digest),
    #[error("blob {blob} cannot be patched at {pointer}")]
    Unpatchable { blob: Digest, pointer: String },
}

impl Results {
    /// The digest of `blob` with `patches` applied.
    pub fn of(
        &mut self,
        blob: &Digest,
        patches: &[Patch],
        bytes: impl FnOnce(&Digest) -> Option<Bytes>,
    ) -> Result<Digest, Error> {
        // Blobs are compact JSON with sorted keys, so an unpatched one is its own result.
        if patches.is_empty() {
            return Ok(*blob);
        }
        let text: String = patches.iter().map(|patch| format!("{}={}\n", patch.pointer, patch.value)).collect();
        let key = (*blob, text);
        if let Some(result) = self.known.get(&key) {
            return Ok(*result);
        }
        let content = bytes(blob).ok_or(Error::MissingBlob(*blob))?;
        let mut object = serde_json::from_slice(&content).map_err(|_| Error::NotJson(*blob))?;
        for patch in patches {
            if !pointer::set(&mut object, &patch.pointer, patch.value.clone()) {
                return Err(Error::Unpatchable { blob: *blob, pointer: patch.pointer.clone() });
            }
        }
        if self.known.len() >= RESULTS_MAX {
            self.known.clear();
        }
        let result = Digest::of_json(&object);
        self.known.insert(key, result);
        Ok(result)
    }
}

/// What one cluster is to run and remove, complete. `bytes` finds a blob's content.
pub fn work(
    revision: &Revision,
    row: &Row,
    results: &mut Results,
    bytes: impl Fn(&Digest) -> Option<Bytes>,
) -> Result<Arc<Work>, Error> {
    let mut manifests = Vec::new();
    for component in &revision.components {
        let Some(share) = row.components.get(&component.name) else { continue };
        for (index, manifest) in component.manifests.iter().enumerate() {
            let patches: Vec<Patch> = patch(component, index, share).into_iter().collect();
            let result = results.of(&manifest.blob, &patches, &bytes)?;
            let object = manifest.object.clone();
            manifests.push(Manifest {
                component: component.name.clone(),
                object,
                blob: manifest.blob,
                patches,
                result,
            });
        }
    }
    Ok(Arc::new(Work {
        application: revision.application.clone(),
        application_uid: revision.application_uid.clone(),
        cluster: row.cluster.clone(),
        generation: row.generation,
        revision: row.revision.clone(),
        application_blob: revision.application_blob,
        manifests,
        removals: row.removals.clone(),
        features: Vec::new(),
        trace: row.trace.clone(),
    }))
}

/// The replicas of this cluster, where they differ from what the manifest says already.
fn patch(component: &RenderedComponent, manifest: usize, share: &Share) -> Option<Patch> {
    let at = component.replicas.as_ref().filter(|at| at.manifest == manifest)?;
    let replicas = share.replicas.filter(|&replicas| replicas != at.count)?;
    Some(Patch { pointer: at.pointer.clone(), value: replicas.into() })
}

#[cfg(test)]
mod tests;
