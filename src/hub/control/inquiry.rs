//! Inquiry: what the leader would decide, for people who ask before it does.
//!
//! Owns: the copy that an answer is made from: the fleet with the very rooms that decisions see, reservations taken off, and
//! the Applications in question. Must never: write, reserve, or put anything on the leader's list of what is due.
//!
//! Taking the copy is the leader's step; [`Inquiry::answer`] is pure and works beside it.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use serde_json::Value;

use super::{Controller, index::StoredApplication, revisions::RunningRevision};
use crate::{
    flow::{
        render::render,
        schedule::{
            Bound, Candidate, Cessions, Fleet, Neighbours, Problem, Profiles, Rebalance, Running, Tenancy,
            account::{self, Account},
            bind,
            drill::{self, Drill, Tenant},
            handover, mode_of, preempt,
        },
    },
    hub::{desk::Unanswered, keys},
    kinds::APPLICATION,
    model::{
        Application, Now, ObjectName, Placement, Policy, Timestamp, Uid, binding::Binding, revision::RenderedComponent,
    },
    wire::{Asked, Question},
};

/// All that one answer is made from.
pub struct Inquiry {
    revision: u64,
    now: Timestamp,
    fleet: Fleet,
    profiles: Profiles,
    about: About,
}

enum About {
    One { subject: Box<Subject>, held: BTreeSet<Uid>, rebalance: Rebalance },
    Loss { lost: BTreeSet<Uid>, tenants: Vec<Subject> },
}

/// An Application that is asked about.
struct Subject {
    name: ObjectName,
    application: Arc<Application>,
    components: Vec<RenderedComponent>,
    previous: Option<Arc<Placement>>,
    running: Option<RunningRevision>,
    neighbours: Neighbours,
    priority: i32,
    /// What another scheduler decided.
    binding: Option<Arc<Binding>>,
    /// What it gives up for others.
    cessions: Cessions,
    /// What would leave for it, if it lacked room.
    tenancies: Vec<Tenancy>,
}

impl Controller {
    pub fn inquire(&mut self, now: Now, question: &Question) -> Result<Inquiry, Unanswered> {
        if !self.index.ready || self.index.revision < question.least {
            return Err(Unanswered::Behind);
        }
        self.refresh_rooms(now);
        self.fleet.settle();
        let mut fleet = self.fleet.clone();
        let about = match &question.asked {
            Asked::Explain(name) | Asked::Rebalance(name) => {
                let stored = self.named(name).ok_or_else(|| refused(format!("there is no application {name}")))?;
                let uid = stored.view.metadata.uid.clone();
                let held = self.brake.clusters_of(&uid).into_iter().filter(|cluster| self.brake.holds(cluster, &uid));
                let rebalance = match question.asked {
                    Asked::Rebalance(_) => Rebalance::Whole,
                    _ => Rebalance::No,
                };
                let held = held.collect();
                self.release_claims(&uid, &mut fleet);
                About::One { subject: Box::new(self.subject(&stored)?), held, rebalance }
            }
            Asked::Plan(application) => {
                if let Some(scheduler) = application.spec.other_scheduler() {
                    return Err(refused(format!("the scheduler {scheduler:?} decides where it goes")));
                }
                let known = self.named(&application.metadata.object_name());
                let uid = known.map(|stored| stored.view.metadata.uid.clone());
                let previous = uid.as_ref().and_then(|uid| self.arrived(uid, &application.spec.policies));
                if let Some(uid) = &uid {
                    self.release_claims(uid, &mut fleet);
                }
                let priority = self.index.classes.of(&application.spec.policies);
                let preempts = self.index.classes.preempts(&application.spec.policies);
                let tenancies = match preempts {
                    true => self.tenancies(priority, uid.as_ref()).0,
                    false => Vec::new(),
                };
                let cessions = uid.as_ref().map(|uid| self.cessions(uid)).unwrap_or_default();
                let running = uid.zip(previous.as_deref()).and_then(|(uid, placement)| self.runs(&uid, placement));
                let subject = Subject {
                    name: application.metadata.object_name(),
                    components: rendered(application)?,
                    neighbours: self.neighbours(application),
                    application: Arc::new((**application).clone()),
                    previous,
                    running,
                    priority,
                    binding: None,
                    cessions,
                    tenancies,
                };
                About::One { subject: Box::new(subject), held: BTreeSet::new(), rebalance: Rebalance::No }
            }
            Asked::Drill(lose) => {
                let lost = drill::lost(&self.fleet, lose).map_err(refused)?;
                let homes = lost.iter().filter_map(|cluster| self.index.tenants.get(cluster));
                let tenants: BTreeSet<&Uid> = homes.flatten().collect();
                let stored = tenants.into_iter().filter_map(|uid| self.index.applications.get(uid));
                let stays = stored.filter(|stored| stored.view.metadata.deletion_timestamp.is_none());
                // One that cannot be rendered is decided by nobody, in a drill or in earnest.
                let tenants = stays.filter_map(|stored| self.subject(stored).ok()).collect();
                About::Loss { lost, tenants }
            }
        };
        let profiles = self.index.profiles.clone();
        Ok(Inquiry { revision: self.index.revision, now: now.wall, fleet, profiles, about })
    }

    /// In the copy an Application may have what it claims, as when it is decided.
    fn release_claims(&self, uid: &Uid, fleet: &mut Fleet) {
        if let Some(placement) = self.placement(uid) {
            preempt::release(fleet, self.claims_of(&placement));
        }
    }

    fn named(&self, name: &ObjectName) -> Option<StoredApplication> {
        self.index.named(&keys::key(&APPLICATION, &name.namespace, &name.name)).cloned()
    }

    /// Its placement, as if all that moves had arrived: the next decision starts from there.
    fn arrived(&self, uid: &Uid, policies: &[Policy]) -> Option<Arc<Placement>> {
        let placement = self.placement(uid)?;
        let mode = |component: &str| mode_of(policies, component);
        let is_to_be_left = |cluster: &Uid| self.fleet.get(cluster).is_some_and(Candidate::is_to_be_left);
        match handover::anchored(&placement, &mode, &is_to_be_left) {
            Cow::Borrowed(_) => Some(placement),
            Cow::Owned(anchored) => Some(Arc::new(anchored)),
        }
    }

    /// An Application as it is to be decided: by its newest revision, or by its spec where that is not rendered yet.
    fn subject(&self, stored: &StoredApplication) -> Result<Subject, Unanswered> {
        let uid = &stored.view.metadata.uid;
        let newest = self.index.newest(uid).filter(|newest| newest.revision.spec_digest == stored.spec_digest);
        let previous = self.arrived(uid, &stored.view.spec.policies);
        let running = previous.as_deref().and_then(|placement| self.runs(uid, placement));
        Ok(Subject {
            name: stored.view.metadata.object_name(),
            application: stored.view.clone(),
            components: match newest {
                Some(newest) => newest.revision.components.clone(),
                None => rendered(&stored.view)?,
            },
            running: running.filter(|running| newest.is_none_or(|newest| running.name != newest.name)),
            previous,
            neighbours: self.neighbours(&stored.view),
            priority: self.index.classes.of(&stored.view.spec.policies),
            binding: self.index.bindings.get(uid).cloned(),
            cessions: self.cessions(uid),
            tenancies: Vec::new(),
        })
    }
}

impl Inquiry {
    /// As JSON: an [`Account`] or a [`Drill`].
    pub fn answer(self) -> Result<Value, Unanswered> {
        let Self { revision, now, mut fleet, profiles, about } = self;
        let told = match about {
            About::One { subject, held, rebalance } => {
                let problem = Problem {
                    now,
                    policies: &subject.application.spec.policies,
                    components: &subject.components,
                    previous: subject.previous.as_deref(),
                    running: subject.running(),
                    held: &held,
                    neighbours: &subject.neighbours,
                    profiles: &profiles,
                    rebalance,
                    cessions: &subject.cessions,
                };
                let ObjectName { namespace, name } = subject.name.clone();
                let told = match subject.application.spec.other_scheduler() {
                    Some(scheduler) => {
                        let generation = subject.application.metadata.generation;
                        let bound = Bound { scheduler, generation, binding: subject.binding.as_deref() };
                        let solution = bind(&mut fleet, &problem, &bound);
                        account::told(&fleet, &problem, &solution)
                    }
                    None => account::account(&mut fleet, &problem),
                };
                let stored = subject.previous.as_deref().map(|placement| placement.claims.as_slice());
                let victims = match stored.filter(|claims| !claims.is_empty()) {
                    Some(claims) => account::leaving(claims),
                    None => account::leaving(&preempt::choose(&mut fleet, &problem, &subject.tenancies, "")),
                };
                let (application, revision) = (name, Some(revision));
                serde_json::to_value(Account { application, namespace, revision, victims, ..told })
            }
            About::Loss { lost, tenants } => {
                let tenants: Vec<Tenant<'_>> = tenants.iter().filter_map(|subject| subject.tenant(&profiles)).collect();
                let told = drill::drill(&mut fleet, now, &lost, &tenants);
                serde_json::to_value(Drill { revision: Some(revision), ..told })
            }
        };
        told.map_err(|error| Unanswered::Unavailable(error.to_string()))
    }
}

impl Subject {
    fn running(&self) -> Option<Running<'_>> {
        let running = self.running.as_ref()?;
        Some(Running { policies: &running.policies, components: &running.revision.components })
    }

    fn tenant<'a>(&'a self, profiles: &'a Profiles) -> Option<Tenant<'a>> {
        Some(Tenant {
            name: &self.name,
            policies: &self.application.spec.policies,
            components: &self.components,
            placement: self.previous.as_deref()?,
            running: self.running(),
            profiles,
            neighbours: &self.neighbours,
            scheduler: self.application.spec.other_scheduler(),
            priority: self.priority,
        })
    }
}

fn refused(why: String) -> Unanswered {
    Unanswered::Refused(why)
}

fn rendered(application: &Application) -> Result<Vec<RenderedComponent>, Unanswered> {
    let rendered = render(application, "")
        .map_err(|faults| refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
    Ok(rendered.components.into_iter().map(RenderedComponent::from).collect())
}
