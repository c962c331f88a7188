//! A fleet in a file: its clusters, and the Applications with their placements where they are in it.
//!
//! As `kubectl get clusters,applications -A -o yaml` prints them. What is reserved and not yet seen in a sketch is known to
//! a hub alone, so a hub may have less room than its file.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::input;
use crate::{
    flow::{
        render::render,
        schedule::{
            Fleet, Named, Neighbour, Neighbours, Profile, Profiles,
            drill::Tenant,
            handover, mode_of,
            neighbours::{affinity_of, matters},
        },
    },
    model::{
        Application, Cluster, ObjectName, Placement, Policy, Uid,
        placement::{Move, Row, Share},
        priority::PriorityClasses,
        revision::RenderedComponent,
    },
};

pub struct Known {
    clusters: Vec<Cluster>,
    applications: Vec<Placed>,
    classes: PriorityClasses,
    profiles: Profiles,
}

/// An Application, as its status says where it is.
pub struct Placed {
    pub name: ObjectName,
    pub placement: Placement,
    policies: Vec<Policy>,
    scheduler: Option<String>,
    components: Vec<RenderedComponent>,
    named: Named,
    neighbours: Neighbours,
}

pub fn read(path: &Path) -> anyhow::Result<Known> {
    let (mut clusters, mut applications): (Vec<Cluster>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut classes = PriorityClasses::default();
    let mut profiles = Profiles::default();
    let mut names = BTreeSet::new();
    for document in input::documents(path)? {
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match document["kind"].as_str() {
            Some("Application") if !name.is_empty() => applications.push(document),
            Some("PriorityClass") if !name.is_empty() => {
                let class = serde_json::from_value(document);
                let class =
                    class.with_context(|| format!("priority class {name:?} in {} cannot be read", path.display()))?;
                classes.0.insert(name, class);
            }
            Some("PlacementProfile") if !name.is_empty() => profiles.insert(&name, Profile::of(&document["spec"])),
            Some("Cluster") if !name.is_empty() => {
                if !names.insert(name.clone()) {
                    bail!("{} holds two clusters named {name:?}", path.display());
                }
                clusters.push(cluster(path, name, document)?);
            }
            _ => bail!(
                "{} holds an object that is no Cluster, Application, PlacementProfile or PriorityClass with a name: kind {}",
                path.display(),
                document["kind"]
            ),
        }
    }
    let placed = |document: Value| {
        let name = document["metadata"]["name"].clone();
        placed(&clusters, document).with_context(|| format!("application {name} in {}", path.display()))
    };
    let applications = applications.into_iter().map(placed).collect::<anyhow::Result<Vec<_>>>()?;
    let mut known = Known { clusters, applications, classes, profiles };
    let neighbours: Vec<Neighbours> =
        known.applications.iter().map(|own| known.neighbours(&own.name.namespace, &own.named, &own.policies)).collect();
    for (placed, neighbours) in known.applications.iter_mut().zip(neighbours) {
        placed.neighbours = neighbours;
    }
    Ok(known)
}

impl Known {
    pub fn fleet(&self) -> Fleet {
        Fleet::of_clusters(&self.clusters)
    }

    pub fn placement(&self, name: &ObjectName) -> Option<&Placement> {
        self.applications.iter().find(|placed| placed.name == *name).map(|placed| &placed.placement)
    }

    /// What the platform has to say; of plug-ins nobody can be asked here.
    pub fn profiles(&self) -> &Profiles {
        &self.profiles
    }

    pub fn tenants(&self) -> Vec<Tenant<'_>> {
        self.applications.iter().map(|placed| placed.tenant(&self.profiles, &self.classes)).collect()
    }

    /// The others of a namespace that matter to one that is called `own`, with these policies.
    pub fn neighbours(&self, namespace: &str, own: &Named, policies: &[Policy]) -> Neighbours {
        let asks = affinity_of(policies);
        let mut others: Vec<Neighbour> = Vec::new();
        let beside = |other: &&Placed| other.name.namespace == namespace && other.named.name != own.name;
        for other in self.applications.iter().filter(beside) {
            let says = affinity_of(&other.policies);
            if !matters(own, asks.as_ref(), &other.named, says.as_ref()) {
                continue;
            }
            let placed: BTreeSet<Uid> = other.placement.rows.iter().map(|row| row.cluster.clone()).collect();
            let affinity = says.unwrap_or_default();
            others.push(Neighbour { named: other.named.clone(), affinity, present: placed.clone(), placed });
        }
        others.sort_by(|one, other| one.named.name.cmp(&other.named.name));
        let is_nobody = others.is_empty() && asks.is_none();
        Neighbours { own: if is_nobody { Named::default() } else { own.clone() }, others }
    }
}

impl Placed {
    fn tenant<'a>(&'a self, profiles: &'a Profiles, classes: &PriorityClasses) -> Tenant<'a> {
        let Self { name, placement, policies, components, scheduler, neighbours, .. } = self;
        let priority = classes.of(policies);
        Tenant {
            name,
            policies,
            components,
            placement,
            running: None,
            profiles,
            neighbours,
            scheduler: scheduler.as_deref(),
            priority,
        }
    }
}

/// One that was written by hand need not have a uid: then its name is one.
fn cluster(path: &Path, name: String, document: Value) -> anyhow::Result<Cluster> {
    let mut cluster: Cluster = serde_json::from_value(document)
        .with_context(|| format!("cluster {name:?} in {} cannot be read", path.display()))?;
    if cluster.metadata.uid == Uid::default() {
        cluster.metadata.uid = Uid(name);
    }
    Ok(cluster)
}

/// A line of `status.placement.rows`.
#[derive(Deserialize)]
struct Line {
    cluster: String,
    component: String,
    replicas: Option<u32>,
    #[serde(default)]
    reason: String,
}

/// A line of `status.placement.moves`: both its ends are among the rows.
#[derive(Deserialize)]
struct Way {
    component: String,
    from: String,
    to: String,
    replicas: Option<u32>,
}

fn placed(clusters: &[Cluster], mut document: Value) -> anyhow::Result<Placed> {
    let status = document["status"]["placement"].take();
    let application: Application = serde_json::from_value(document)?;
    let lines: Vec<Line> = match &status["rows"] {
        Value::Null => Vec::new(),
        rows => serde_json::from_value(rows.clone()).context("status.placement cannot be read")?,
    };
    let mut rows: Vec<Row> = Vec::new();
    for Line { cluster, component, replicas, reason } in lines {
        let known = clusters.iter().find(|known| known.metadata.name == cluster);
        let known = known.with_context(|| format!("it runs in cluster {cluster:?}, which is not in the file"))?;
        let place = rows.iter().position(|row| row.cluster == known.metadata.uid).unwrap_or_else(|| {
            rows.push(Row {
                cluster: known.metadata.uid.clone(),
                cluster_name: cluster,
                generation: 1,
                revision: String::new(),
                components: Default::default(),
                removals: Vec::new(),
                trace: String::new(),
            });
            rows.len() - 1
        });
        rows[place].components.insert(component, Share { replicas, reason });
    }
    let ways: Vec<Way> = match &status["moves"] {
        Value::Null => Vec::new(),
        moves => serde_json::from_value(moves.clone()).context("status.placement.moves cannot be read")?,
    };
    let uid = |name: &str| -> anyhow::Result<Uid> {
        let known = clusters.iter().find(|known| known.metadata.name == *name);
        Ok(known
            .with_context(|| format!("a part moves by cluster {name:?}, which is not in the file"))?
            .metadata
            .uid
            .clone())
    };
    let move_of = |way: Way| -> anyhow::Result<Move> {
        Ok(Move {
            component: way.component,
            from: uid(&way.from)?,
            to: uid(&way.to)?,
            replicas: way.replicas,
            reason: String::new(),
            drained: false,
        })
    };
    let moves = ways.into_iter().map(move_of).collect::<anyhow::Result<Vec<Move>>>()?;
    let name = application.metadata.object_name();
    let placement = Placement {
        application: name.clone(),
        application_uid: application.metadata.uid.clone(),
        decision: status["decision"].as_u64().unwrap_or(1),
        rows,
        refusals: Vec::new(),
        unplaced: Default::default(),
        moves,
        rebalanced: String::new(),
        claims: Vec::new(),
        preempted: Default::default(),
    };
    let mode = |component: &str| mode_of(&application.spec.policies, component);
    let placement = handover::anchored(&placement, &mode, &|_| false).into_owned();
    let scheduler = application.spec.other_scheduler().map(str::to_owned);
    let components = components(&application)?;
    let (named, neighbours) = (Named::of(&application), Neighbours::NONE);
    Ok(Placed { name, placement, components, scheduler, named, neighbours, policies: application.spec.policies })
}

/// What is to be placed of an Application.
pub fn components(application: &Application) -> anyhow::Result<Vec<RenderedComponent>> {
    let faults = |faults: Vec<crate::model::FieldError>| {
        anyhow::anyhow!(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let rendered = render(application, "").map_err(faults)?;
    Ok(rendered.components.into_iter().map(RenderedComponent::from).collect())
}
