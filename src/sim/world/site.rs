//! A member, its agent, and the link between agent and hub.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{At, Happening, World};
use crate::{
    agent::{
        cluster::{Capacity, Deletion, Live, Rejection},
        core::{self, Answer, Call, Config, Core},
        ledger::{Entry, Ledger, Made, Write, memory::MemoryLedger},
        link::{
            addresses,
            course::{self, Action, Course, Ended, Validity},
        },
    },
    model::{GroupVersionKind, Now, Timestamp, Uid, protocol::ToAgent},
    sim::{
        member::{Change, Member},
        mutant::Mutant,
    },
    store::raft::ReplicaId,
};

/// Where a replica is, to agents.
const URL: &str = "https://replica-";
/// What agents are started with: leads to any replica.
const ANY: &str = "https://any";
/// When certificates end; a simulated world does not last as long.
const DOOM_MS: i64 = super::DAWN_MS * 2;

pub fn url(replica: ReplicaId) -> String {
    format!("{URL}{replica}")
}

/// One member cluster with its agent.
pub struct Site {
    pub name: String,
    /// As it joined last.
    pub cluster: Uid,
    pub key: String,
    pub member: Member,
    pub ledger: MemoryLedger,
    /// The network between agent and hub lets nothing through, by direction.
    pub cut_up: bool,
    pub cut_down: bool,
    /// The same, for single replicas.
    pub cuts: BTreeMap<ReplicaId, (bool, bool)>,
    /// The member's API server answers its agent nothing.
    pub unreachable: bool,
    /// What ran here was left behind on purpose, when its Cluster was deleted.
    pub was_orphaned: bool,
    pub(super) agent: Option<Agent>,
    pub(super) life: u64,
    pub(super) stream: Option<u64>,
    skew_ms: i64,
    /// Works that were sent to it, so that one may arrive late.
    pub(super) sent: Vec<Arc<crate::model::Work>>,
    member_armed: Option<u64>,
}

pub(super) struct Agent {
    core: Core,
    course: Course,
    pub(super) course_armed: Option<u64>,
    /// Where it may connect, in the order in which it tries.
    urls: Vec<String>,
    booted_ms: u64,
    watches: BTreeSet<GroupVersionKind>,
    /// When the last thing observed arrives: observations do not overtake each other.
    observed_ms: u64,
    /// The ledger is written in order.
    written_ms: u64,
    armed: Option<u64>,
}

impl Site {
    pub fn new(name: &str, cluster: Uid, member: Member, skew_ms: i64) -> Self {
        Self {
            name: name.to_owned(),
            key: format!("key-{cluster}"),
            cluster,
            member,
            ledger: MemoryLedger::default(),
            cut_up: false,
            cut_down: false,
            cuts: BTreeMap::new(),
            unreachable: false,
            was_orphaned: false,
            agent: None,
            life: 0,
            stream: None,
            skew_ms,
            sent: Vec::new(),
            member_armed: None,
        }
    }

    /// Whether the network lets nothing through, up and down.
    pub fn cut_from(&self, replica: ReplicaId) -> (bool, bool) {
        let (up, down) = self.cuts.get(&replica).copied().unwrap_or_default();
        (self.cut_up || up, self.cut_down || down)
    }

    /// What the ledger holds, by Application.
    pub fn ledger_entries(&self) -> BTreeMap<Uid, Entry> {
        let loaded = self.ledger.clone().load().map(|loaded| loaded.entries).unwrap_or_default();
        loaded.into_iter().map(|entry| (entry.work.application_uid.clone(), entry)).collect()
    }
}

impl World {
    pub fn start_agent(&mut self, at: At) {
        if self.sites[at].agent.is_some() {
            return;
        }
        let now_ms = self.now_ms;
        let forgets = self.settings.mutant == Some(Mutant::LedgerForgets) && self.sites[at].life > 0;
        let site = &mut self.sites[at];
        if forgets {
            site.ledger = MemoryLedger::default();
        }
        site.life += 1;
        let life = site.life;
        let config = Config { instance: format!("{}-{life}", site.name), seed: life, ..Config::default() };
        let loaded = site.ledger.load().unwrap_or_default();
        let now = site_now(site.skew_ms, now_ms, now_ms);
        let doom = Timestamp::from_millis(DOOM_MS);
        let forever = Validity { renew_at: doom, not_after: doom };
        let (core, effects) = Core::start(config, now, loaded);
        site.agent = Some(Agent {
            core,
            course: Course::start(now, forever, life),
            course_armed: None,
            urls: vec![ANY.to_owned()],
            booted_ms: now_ms,
            watches: BTreeSet::new(),
            observed_ms: now_ms,
            written_ms: now_ms,
            armed: None,
        });
        self.check.agent_started(now_ms, &self.sites[at]);
        self.trace.line(now_ms, format_args!("agent {} starts, life {life}", self.sites[at].name));
        self.agent_effects(at, life, effects);
        self.arm_agent(at);
        let site = &self.sites[at];
        let nodes = Capacity::NodesReset(site.member.nodes().cloned().collect());
        let pods = Capacity::PodsReset(site.member.pods().collect());
        let facts = site.member.facts().clone();
        self.observe(at, |life| Happening::Capacity { at, life, capacity: nodes });
        self.observe(at, |life| Happening::Capacity { at, life, capacity: pods });
        self.agent_step(at, life, core::Event::Facts(facts));
        let delay = self.chance.between(10, 300);
        self.after(delay, Happening::LinkTick { at, life });
    }

    /// What the link does next; the product's own course decides it.
    pub(super) fn steer(&mut self, at: At, life: u64, event: course::Event) {
        let now_ms = self.now_ms;
        let site = &mut self.sites[at];
        let Some(agent) = site.agent.as_mut().filter(|_| site.life == life) else { return };
        let now = site_now(site.skew_ms, agent.booted_ms, now_ms);
        match agent.course.step(now, event) {
            Some(Action::Connect(number)) => {
                let url = agent.urls.get(number % agent.urls.len().max(1)).map(String::as_str).unwrap_or(ANY);
                let replica = url.strip_prefix(URL).and_then(|number| number.parse().ok());
                let delay = self.chance.between(1, 20);
                self.after(delay, Happening::Dial { at, life, replica });
            }
            // Certificates are as good as for ever here.
            Some(Action::Renew(_) | Action::Close) | None => {
                if let Some(wake_at) = agent.course.wake_at(now) {
                    let wake_at = (agent.booted_ms + wake_at).clamp(now_ms + 1, now_ms + 3_600_000);
                    if agent.course_armed.is_none_or(|armed| wake_at < armed || armed <= now_ms) {
                        agent.course_armed = Some(wake_at);
                        self.after(wake_at - now_ms, Happening::LinkTick { at, life });
                    }
                }
            }
        }
    }

    /// The agent keeps where the replicas are.
    fn learn_urls(&mut self, at: At, said: &[String]) {
        let site = &mut self.sites[at];
        let seed = site.life;
        let Some(agent) = &mut site.agent else { return };
        agent.urls = addresses(said, &[ANY.to_owned()], seed);
        agent.course.learn_addresses(agent.urls.len());
    }

    /// Kills the agent; what was not in the ledger yet is lost. After a power cut the hub finds out by itself.
    pub fn crash_agent(&mut self, at: At, power_cut: bool) {
        if self.sites[at].agent.take().is_none() {
            return;
        }
        self.trace.line(self.now_ms, format_args!("agent {} crashes", self.sites[at].name));
        if let Some(stream) = self.sites[at].stream.take()
            && !power_cut
        {
            self.send_up(stream, None);
        }
    }

    /// A mutant's doing, on what the hub says.
    fn mutate_down(&mut self, mutant: Mutant, at: At, message: ToAgent) -> ToAgent {
        let entries = self.sites[at].ledger_entries();
        match (mutant, message) {
            (Mutant::AbsentIsDeleted, ToAgent::Welcome(welcome)) => {
                for made in entries.values().flat_map(|entry| entry.made.clone()) {
                    self.delete_made(at, &made);
                }
                ToAgent::Welcome(welcome)
            }
            (Mutant::RemovalFirst, ToAgent::Work(work)) => {
                let made = entries.get(&work.application_uid).map(|entry| entry.made.clone()).unwrap_or_default();
                let ordered = |object| work.removals.iter().any(|removal| removal.object == object);
                for made in made.iter().filter(|made| ordered(made.object.clone())) {
                    self.delete_made(at, made);
                }
                ToAgent::Work(work)
            }
            (Mutant::StaleAccepted, ToAgent::Work(work)) => {
                let told = self.sites[at].sent.iter().filter(|told| told.application_uid == work.application_uid);
                let held = told.map(|told| told.generation).max().unwrap_or_default();
                let mut work = Arc::unwrap_or_clone(work);
                if work.generation < held {
                    work.generation = held + 1;
                }
                ToAgent::Work(Arc::new(work))
            }
            (_, message) => message,
        }
    }

    /// A mutant's doing: writes again what nobody changed.
    pub(super) fn repair_needlessly(&mut self, at: At) {
        let entries = self.sites[at].ledger_entries();
        let made = entries.values().flat_map(|entry| entry.made.first()).next().cloned();
        let Some(object) = made.and_then(|made| self.sites[at].member.get(&made.object)) else { return };
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.request(at, 0, 0, Call::Apply { namespace, object });
    }

    fn delete_made(&mut self, at: At, made: &Made) {
        let call = Call::Delete {
            namespace: made.object.name.namespace.clone(),
            object: made.object.clone(),
            uid: made.uid.clone().unwrap_or_default(),
        };
        // An id that the core never gave: its answer is nobody's.
        self.request(at, 0, 0, call);
    }

    /// A cluster that joins again starts with an empty ledger and a new identity.
    pub(super) fn rejoin(&mut self, at: At, cluster: Uid) {
        self.crash_agent(at, false);
        let site = &mut self.sites[at];
        site.key = format!("key-{cluster}");
        site.cluster = cluster;
        site.ledger = MemoryLedger::default();
        site.sent.clear();
        site.was_orphaned = true;
        self.check.ledger_discarded(&self.sites[at].name);
        self.start_agent(at);
    }

    pub(super) fn tell_agent(&mut self, stream: u64, at: At, message: Option<ToAgent>) {
        // A stream that the agent gave up says nothing any more.
        if self.sites[at].stream != Some(stream) {
            return;
        }
        let life = self.sites[at].life;
        match message {
            Some(message) => {
                if let ToAgent::Welcome(welcome) = &message {
                    self.learn_urls(at, &welcome.urls);
                }
                // Like the link: an agent that was told that trying again is no use tries seldom.
                let refused = match &message {
                    ToAgent::Refuse(refuse) if refuse.retry => Some(Ended::Lost),
                    ToAgent::Refuse(_) => Some(Ended::Refused),
                    _ => None,
                };
                let message = match self.settings.mutant {
                    Some(mutant) => self.mutate_down(mutant, at, message),
                    None => message,
                };
                self.agent_step(at, life, core::Event::LinkMessage(message));
                if let Some(ended) = refused {
                    self.sites[at].stream = None;
                    self.agent_step(at, life, core::Event::LinkClosed("the hub refuses".into()));
                    self.steer(at, life, course::Event::Ended(ended));
                }
            }
            None => {
                self.sites[at].stream = None;
                self.agent_step(at, life, core::Event::LinkClosed("the hub ended the stream".into()));
                self.steer(at, life, course::Event::Ended(Ended::Lost));
            }
        }
    }

    pub(super) fn agent_step(&mut self, at: At, life: u64, event: core::Event) {
        let now_ms = self.now_ms;
        let site = &mut self.sites[at];
        if site.life != life {
            return;
        }
        let Some(agent) = &mut site.agent else { return };
        let effects = agent.core.step(site_now(site.skew_ms, agent.booted_ms, now_ms), event);
        self.agent_effects(at, life, effects);
        self.arm_agent(at);
    }

    pub(super) fn agent_tick(&mut self, at: At, life: u64) {
        let site = &mut self.sites[at];
        if site.life == life
            && let Some(agent) = &mut site.agent
        {
            agent.armed = None;
            self.agent_step(at, life, core::Event::Tick);
        }
    }

    fn arm_agent(&mut self, at: At) {
        let (now_ms, life) = (self.now_ms, self.sites[at].life);
        let Some(agent) = &mut self.sites[at].agent else { return };
        let Some(wake_at) = agent.core.wake_at() else { return };
        let wake_at = (agent.booted_ms + wake_at).max(now_ms + 1);
        if agent.armed.is_none_or(|armed| wake_at < armed) {
            agent.armed = Some(wake_at);
            self.after(wake_at - now_ms, Happening::AgentTick { at, life });
        }
    }

    fn agent_effects(&mut self, at: At, life: u64, effects: Vec<core::Effect>) {
        for effect in effects {
            match effect {
                core::Effect::Send(message) => {
                    if let Some(stream) = self.sites[at].stream {
                        self.send_up(stream, Some(message));
                    }
                    self.after(1, Happening::Sent { at, life });
                }
                core::Effect::CloseLink(why) => {
                    self.trace.line(self.now_ms, format_args!("{} gives its stream up: {why}", self.sites[at].name));
                    if let Some(stream) = self.sites[at].stream.take() {
                        self.send_up(stream, None);
                    }
                    self.agent_step(at, life, core::Event::LinkClosed(why));
                    self.steer(at, life, course::Event::Ended(Ended::Lost));
                }
                core::Effect::Write { id, writes } => {
                    let delay = self.chance.between(1, 10);
                    let now_ms = self.now_ms;
                    let Some(agent) = &mut self.sites[at].agent else { return };
                    agent.written_ms = agent.written_ms.max(now_ms + delay);
                    let delay = agent.written_ms - now_ms;
                    self.after(delay, Happening::Ledger { at, life, id, writes });
                }
                core::Effect::Call { id, call } => {
                    let delay = self.chance.between(1, 10);
                    self.after(delay, Happening::Request { at, life, id, call });
                }
                core::Effect::Watch(gvk) => {
                    let live = Live::Reset(self.sites[at].member.owned(&gvk));
                    if let Some(agent) = &mut self.sites[at].agent {
                        agent.watches.insert(gvk.clone());
                    }
                    self.observe(at, |life| Happening::Live { at, life, gvk, live });
                }
                core::Effect::Unwatch(gvk) => {
                    if let Some(agent) = &mut self.sites[at].agent {
                        agent.watches.remove(&gvk);
                    }
                }
            }
        }
    }

    /// Schedules what the agent sees next of its member.
    fn observe(&mut self, at: At, happening: impl FnOnce(u64) -> Happening) {
        let delay = self.chance.between(1, 20);
        let now_ms = self.now_ms;
        let site = &mut self.sites[at];
        let Some(agent) = &mut site.agent else { return };
        agent.observed_ms = agent.observed_ms.max(now_ms + delay);
        let (delay, life) = (agent.observed_ms - now_ms, site.life);
        self.after(delay, happening(life));
    }

    pub(super) fn write_ledger(&mut self, at: At, life: u64, id: u64, writes: &[Write]) {
        // The process died before its disk did anything.
        if self.sites[at].life != life || self.sites[at].agent.is_none() {
            return;
        }
        let result = if self.mishap() {
            Err("no space left on device".to_owned())
        } else {
            let result = self.sites[at].ledger.write(writes).map_err(|error| error.to_string());
            self.check.ledger_written(self.now_ms, &self.sites[at], writes);
            result
        };
        for write in writes {
            if let Write::Entry { entry, .. } = write {
                let (name, work) = (&self.sites[at].name, &entry.work);
                self.trace.line(
                    self.now_ms,
                    format_args!("{name} has {} generation {} in its ledger", work.application, work.generation),
                );
            }
        }
        self.after(1, Happening::Written { at, life, id, result });
    }

    /// A request reaches the member's API server, even if its sender died since.
    pub(super) fn request(&mut self, at: At, life: u64, id: u64, call: Call) {
        let unreachable = || Rejection { reason: "Unreachable".into(), message: "connection timed out".into() };
        let lost = self.sites[at].unreachable;
        let answer = match call {
            Call::EnsureNamespace(_) if lost => Answer::Namespace(Err(unreachable())),
            Call::Get(_) if lost => Answer::Got(Err(unreachable())),
            Call::Apply { .. } if lost => Answer::Applied(Err(unreachable())),
            Call::Delete { .. } if lost => Answer::Deleted(Err(unreachable())),
            Call::EnsureNamespace(namespace) => {
                let now = self.now();
                Answer::Namespace(self.sites[at].member.ensure_namespace(now, &namespace))
            }
            Call::Get(object) => {
                let found = self.sites[at].member.get(&object);
                let blind = self.settings.mutant == Some(Mutant::OwnershipIgnored);
                let ours = |value: &serde_json::Value| {
                    value["metadata"]["labels"].get(crate::agent::cluster::OWNER_LABEL).is_some()
                };
                Answer::Got(Ok(found.filter(|value| !blind || ours(value))))
            }
            Call::Apply { namespace, object } => Answer::Applied(self.apply(at, &namespace, &object)),
            Call::Delete { namespace, object, uid } => {
                let now = self.now();
                let site = &mut self.sites[at];
                let owner = site.member.owner(&object).map(str::to_owned);
                let hit = site.member.uid(&object) == Some(&uid);
                let result = site.member.delete(now, &namespace, &object, &uid);
                if hit && result.is_ok() {
                    self.trace.line(self.now_ms, format_args!("{}: deleted {object}", self.sites[at].name));
                    self.deleted(at, &object, owner.as_deref());
                }
                Answer::Deleted(result)
            }
        };
        // The request was carried out, and its answer may still be lost.
        let answer = if self.mishap() { unanswered(&answer, unreachable()) } else { answer };
        self.member_changed(at);
        let delay = self.chance.between(1, 10);
        self.after(delay, Happening::Answered { at, life, id, answer });
    }

    fn deleted(&mut self, at: At, object: &crate::model::ObjectRef, owner: Option<&str>) {
        let site = &self.sites[at];
        self.check.deleted(self.now_ms, site, object, owner);
    }

    fn apply(&mut self, at: At, namespace: &str, object: &serde_json::Value) -> Result<serde_json::Value, Rejection> {
        let now = self.now();
        let site = &mut self.sites[at];
        let reference = crate::model::ObjectRef::of(object);
        let owner = |member: &Member| {
            let reference = reference.as_ref()?;
            member.uid(reference)?;
            Some(member.owner(reference).map(str::to_owned))
        };
        let before = owner(&site.member);
        let result = site.member.apply(now, namespace, object);
        let site = &self.sites[at];
        if result.is_ok()
            && let Some(reference) = &reference
        {
            self.trace.line(self.now_ms, format_args!("{}: applied {reference}", site.name));
            self.check.applied(self.now_ms, site, reference, before, object);
        }
        result
    }

    pub(super) fn member_due(&mut self, at: At) {
        let now = self.now();
        self.sites[at].member_armed = None;
        self.sites[at].member.step(now);
        self.member_changed(at);
    }

    /// Tells the agent what its watches see, and waits for what the member does next.
    pub(super) fn member_changed(&mut self, at: At) {
        let changes = self.sites[at].member.take_changes();
        if !changes.is_empty() {
            self.check.handing.seen(&self.sites[at]);
        }
        for change in changes {
            let site = &self.sites[at];
            let Some(agent) = &site.agent else { continue };
            let member = &site.member;
            let happening: Option<Box<dyn FnOnce(u64) -> Happening>> = match change {
                Change::Object(object) if agent.watches.contains(&object.gvk) => member.get(&object).map(|value| {
                    let (gvk, live) = (object.gvk.clone(), Live::Applied(value));
                    Box::new(move |life| Happening::Live { at, life, gvk, live }) as Box<_>
                }),
                Change::ObjectGone(object) if agent.watches.contains(&object.gvk) => {
                    let (gvk, live) = (object.gvk.clone(), Live::Deleted(object));
                    Some(Box::new(move |life| Happening::Live { at, life, gvk, live }))
                }
                Change::Object(_) | Change::ObjectGone(_) => None,
                Change::Node(name) => member.node(&name).cloned().map(|node| capacity(at, Capacity::Node(node))),
                Change::NodeGone(name) => Some(capacity(at, Capacity::NodeGone(name))),
                Change::Pod(name) => member.pod(&name).map(|pod| capacity(at, Capacity::Pod(pod))),
                Change::PodGone(name) => {
                    Some(capacity(at, Capacity::PodGone { namespace: name.namespace, name: name.name }))
                }
            };
            if let Some(happening) = happening {
                self.observe(at, happening);
            }
        }
        let Some(due) = self.sites[at].member.due() else { return };
        if self.sites[at].member_armed.is_none_or(|armed| due < armed) {
            self.sites[at].member_armed = Some(due);
            self.after(due.saturating_sub(self.now_ms).max(1), Happening::MemberDue { at });
        }
    }
}

fn capacity(at: At, capacity: Capacity) -> Box<dyn FnOnce(u64) -> Happening> {
    Box::new(move |life| Happening::Capacity { at, life, capacity })
}

fn unanswered(answer: &Answer, rejection: Rejection) -> Answer {
    match answer {
        Answer::Namespace(_) => Answer::Namespace(Err(rejection)),
        Answer::Got(_) => Answer::Got(Err(rejection)),
        Answer::Applied(_) => Answer::Applied(Err(rejection)),
        Answer::Deleted(Ok(Deletion::Gone | Deletion::Pending) | Err(_)) => Answer::Deleted(Err(rejection)),
    }
}

/// The agent's own clocks: the wall is wrong by `skew_ms`, the monotonic one begins when it boots.
fn site_now(skew_ms: i64, booted_ms: u64, now_ms: u64) -> Now {
    let wall = Timestamp::from_millis(super::DAWN_MS + now_ms as i64 + skew_ms);
    Now { wall, monotonic_ms: now_ms - booted_ms }
}
