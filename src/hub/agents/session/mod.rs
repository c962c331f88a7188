//! One stream of one agent: what the hub says on it, and what it takes from it.
//!
//! Owns: negotiation, which works go out and when, blobs, releases, acks, resume tokens, pace, and the end of the stream.
//! One synchronous [`Session::step`]; the tonic shell and the simulator drive the same code. Must never: take the
//! agent's word for who it is (the [`Member`] comes from its certificate), serve or hear anything of another cluster, or
//! say anything that could be read as an order to delete: what is missing here is simply not sent (rule 1).
//!
//! Sends are state, not a queue: the shell asks for one message at a time when the stream has room
//! ([`Event::Room`]), and gets the newest of what is due then.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use self::outbox::Outbox;
use super::{
    pace::Pace,
    resume::Stamp,
    roster::{self, Member},
};
use crate::{
    hub::{control::FromAgent, slices::Slice},
    model::{
        Digest, Now, Report, Uid, Work,
        cluster::Facts,
        protocol::{Hello, LedgerLine, PROTOCOL, PROTOCOL_MIN, Refuse, ToAgent, ToHub, Welcome},
    },
    wire::{
        Invalid,
        limits::{BEAT_INTERVAL_MS, HELLO_MS_MAX, SILENCE_MS_MAX},
    },
};

mod outbox;
#[cfg(test)]
mod tests;

/// What this hub can do beyond the base protocol.
pub const FEATURES: [&str; 0] = [];
/// A resume token goes out this often, where the store has moved.
const RESUME_MS: u64 = 60_000;
/// Beats are passed on at most this often.
const BEAT_MS_MIN: u64 = 1_000;
/// Requests for foreign blobs before the stream is refused. More than none, because a work may change while the agent
/// is still fetching what the one before it listed.
const DENIALS_MAX: u32 = 8;
/// Works replaced during this session whose blobs may still be asked for.
const REPLACED_MAX: usize = 64;

#[derive(Debug, Clone)]
pub enum Event {
    Message {
        message: ToHub,
        /// Encoded size, for the pace.
        bytes: usize,
    },
    /// What arrived is no message.
    Garbage(Invalid),
    /// The cluster as stored now; `None` where it is gone.
    Member(Option<Arc<Member>>),
    /// All works of the cluster, as of one store revision.
    Slice(Slice),
    /// This stream acts for the cluster. Answers [`Effect::Claim`].
    Admitted,
    /// Answers [`Effect::CatchUp`]: the slice that was told last holds all that the store held at `revision`.
    CaughtUp { revision: u64 },
    /// This stream is to end.
    Refused(Refuse),
    /// Answers [`Effect::ReadBlob`].
    Blob { digest: Digest, bytes: Option<Bytes> },
    /// Yes to [`Effect::AskReleased`].
    Released { application: Uid, generation: u64 },
    /// The stream takes one more message.
    Room,
    /// The time of [`Session::wake_at`] has come; harmless at any other. The store has reached `revision`.
    Tick { revision: u64 },
    /// The stream is gone.
    Gone,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Send(ToAgent),
    /// To control.
    Forward(FromAgent),
    /// Asks to act for the cluster, against other streams of the same identity.
    Claim {
        instance: String,
        epoch: u64,
    },
    /// Asks for the slice to be as the store is now: this replica may be behind the one that the agent was connected to
    /// before, and what is merely late must not be taken for a store that went back.
    CatchUp,
    ReadBlob(Digest),
    /// Is nothing decided for this Application here (any more)? The agent says that this generation is finished. That
    /// its work is not in the slice does not answer it: a work may be missing because it cannot be made.
    AskReleased {
        application: Uid,
        generation: u64,
    },
    /// Read nothing from the stream before this time (monotonic milliseconds).
    PauseUntil(u64),
    /// Something was asked for or said that is not this cluster's to ask or say.
    Denied(String),
    /// Send this and close.
    Close(Refuse),
}

#[derive(Debug, Clone)]
pub struct Config {
    pub hub: Uid,
    pub incarnation: Uid,
    pub stamp: Stamp,
    /// Of the key that the stream was opened with, hex.
    pub key_fingerprint: String,
    /// Where agents may connect.
    pub urls: Vec<String>,
}

#[derive(Debug)]
pub struct Session {
    config: Config,
    member: Arc<Member>,
    phase: Phase,
    pace: Pace,
    heard_ms: u64,
    beat_ms: Option<u64>,
    resume_ms: u64,
    /// Store revision of the last resume token.
    resumed: u64,
    facts: Option<Facts>,
    outbox: Outbox,
    denials: u32,
    slice: Slice,
    /// Works replaced in this session, newest last.
    replaced: VecDeque<Arc<Work>>,
    /// Applications of which the agent says that a generation is finished: its removals done, nothing left to run.
    finished: BTreeMap<Uid, u64>,
}

#[derive(Debug, PartialEq)]
enum Phase {
    Greeting { deadline_ms: u64 },
    Claiming(Box<Hello>),
    CatchingUp(Box<Hello>),
    Open,
    Closed,
}

impl Session {
    /// A stream whose certificate names `member`. Nothing is served before its `Hello`.
    pub fn open(config: Config, member: Arc<Member>, now: Now) -> (Self, Vec<Effect>) {
        let mut session = Self {
            config,
            member,
            phase: Phase::Greeting { deadline_ms: now.monotonic_ms + HELLO_MS_MAX },
            pace: Pace::default(),
            heard_ms: now.monotonic_ms,
            beat_ms: None,
            resume_ms: now.monotonic_ms,
            resumed: 0,
            facts: None,
            outbox: Outbox::default(),
            denials: 0,
            slice: Slice::default(),
            replaced: VecDeque::new(),
            finished: BTreeMap::new(),
        };
        let effects = match session.member.admits(&session.config.key_fingerprint) {
            Ok(()) => Vec::new(),
            Err(refuse) => session.close(refuse),
        };
        (session, effects)
    }

    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        if self.phase == Phase::Closed {
            return Vec::new();
        }
        match event {
            Event::Message { message, bytes } => {
                let pause = self.pace.count(now.monotonic_ms, bytes).map(Effect::PauseUntil);
                self.heard_ms = now.monotonic_ms;
                let mut effects = self.message(now, message);
                effects.extend(pause);
                effects
            }
            Event::Garbage(invalid) => self.close(refuse("Invalid", format!("not a message: {invalid}"), true)),
            Event::Member(None) => {
                let refuse = roster::unknown(&self.member.uid);
                self.close(refuse)
            }
            Event::Member(Some(member)) => {
                self.member = member;
                match self.member.admits(&self.config.key_fingerprint) {
                    Ok(()) => Vec::new(),
                    Err(refuse) => self.close(refuse),
                }
            }
            Event::Slice(slice) => self.take_slice(slice),
            Event::Admitted => self.admitted(),
            Event::CaughtUp { revision } => self.caught_up(now, revision),
            Event::Refused(refuse) => self.close(refuse),
            Event::Blob { digest, bytes } => {
                self.outbox.take_blob(digest, bytes);
                self.read_next()
            }
            Event::Released { application, generation } => {
                self.outbox.releases.insert(application, generation);
                Vec::new()
            }
            Event::Room => self.next_message().map(Effect::Send).into_iter().chain(self.read_next()).collect(),
            Event::Tick { revision } => self.tick(now, revision),
            Event::Gone => self.gone(),
        }
    }

    /// Whether [`Event::Room`] would send something.
    pub fn has_due(&self) -> bool {
        self.outbox.has_due()
    }

    /// Monotonic milliseconds of the next [`Event::Tick`].
    pub fn wake_at(&self) -> u64 {
        match self.phase {
            Phase::Greeting { deadline_ms } => deadline_ms,
            Phase::Open => (self.heard_ms + SILENCE_MS_MAX).min(self.resume_ms + RESUME_MS),
            Phase::Claiming(_) | Phase::CatchingUp(_) | Phase::Closed => self.heard_ms + SILENCE_MS_MAX,
        }
    }

    fn message(&mut self, now: Now, message: ToHub) -> Vec<Effect> {
        match (&self.phase, message) {
            (Phase::Greeting { .. }, ToHub::Hello(hello)) => self.hello(hello),
            (Phase::Greeting { .. } | Phase::Claiming(_) | Phase::CatchingUp(_), ToHub::Beat) => Vec::new(),
            (Phase::Greeting { .. } | Phase::Claiming(_) | Phase::CatchingUp(_), _) => {
                self.close(refuse("Invalid", "the first message must be a Hello, and the next await the Welcome", true))
            }
            (_, ToHub::Hello(_)) => self.close(refuse("Invalid", "a stream has one Hello", true)),
            (_, ToHub::Beat) => {
                self.outbox.ack = true;
                self.beat(now)
            }
            (_, ToHub::FetchBlobs(digests)) => self.fetch(&digests),
            (_, ToHub::Report(report)) => self.report(now, report),
            (_, ToHub::Sketch(sketch)) => {
                let cluster = self.member.uid.clone();
                let mut effects = self.beat(now);
                effects.push(Effect::Forward(FromAgent::Sketch { cluster, sketch }));
                effects
            }
            (_, ToHub::Facts(facts)) => {
                let mut effects = self.beat(now);
                effects.extend(self.facts(facts));
                effects
            }
        }
    }

    fn hello(&mut self, hello: Box<Hello>) -> Vec<Effect> {
        if hello.protocol_max < PROTOCOL_MIN {
            let message = format!(
                "the agent speaks protocol {} to {}, this hub {PROTOCOL_MIN} to {PROTOCOL}: upgrade the agent",
                hello.protocol_min, hello.protocol_max
            );
            return self.close(refuse("ProtocolTooOld", message, true));
        }
        if hello.protocol_min > PROTOCOL || hello.protocol_min > hello.protocol_max {
            let message = format!(
                "the agent speaks protocol {} to {}, this hub {PROTOCOL_MIN} to {PROTOCOL}: upgrade the hub",
                hello.protocol_min, hello.protocol_max
            );
            return self.close(refuse("ProtocolTooNew", message, true));
        }
        if let Some(refuse) = self.wrong_cluster(&hello.facts) {
            return self.close(refuse);
        }
        let claim = Effect::Claim { instance: hello.instance.clone(), epoch: hello.session_epoch };
        self.phase = Phase::Claiming(hello);
        vec![claim]
    }

    /// An identity that was carried to another cluster: its works would be applied where nobody placed them.
    fn wrong_cluster(&self, facts: &Facts) -> Option<Refuse> {
        let (joined, now) = (&self.member.system_uid, &facts.system_uid);
        (!joined.is_empty() && !now.is_empty() && joined != now).then(|| {
            let message = format!(
                "cluster {} joined with kube-system uid {joined}, this agent is in a cluster with {now}: an identity does not \
                 move; join this cluster under its own name, or with a --replace token if it was rebuilt",
                self.member.name
            );
            refuse("WrongCluster", message, false)
        })
    }

    fn admitted(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::Claiming(hello) => {
                self.phase = Phase::CatchingUp(hello);
                vec![Effect::CatchUp]
            }
            other => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    fn caught_up(&mut self, now: Now, reached: u64) -> Vec<Effect> {
        let hello = match std::mem::replace(&mut self.phase, Phase::Open) {
            Phase::CatchingUp(hello) => hello,
            other => {
                self.phase = other;
                return Vec::new();
            }
        };
        let Hello { features, incarnation, resume, ledger, facts, sketch, .. } = *hello;
        if let Some(token) = resume.filter(|token| self.config.stamp.is_ours(token)) {
            if token.revision > reached {
                let message = format!(
                    "the hub's store is at revision {reached}, this agent has proof that it was at {}: it went back in time; \
                     nothing is placed until an admin has looked, and what runs stays as it is",
                    token.revision
                );
                let (cluster, revision) = (self.member.uid.clone(), token.revision);
                let mut effects = vec![Effect::Forward(FromAgent::StoreWentBack { cluster, revision })];
                effects.extend(self.close(refuse("StoreWentBack", message, true)));
                return effects;
            }
            self.resumed = token.revision;
        }
        // Generations of another incarnation say nothing about ours: then everything is sent, and the agent decides.
        let comparable = incarnation.as_ref().is_none_or(|incarnation| *incarnation == self.config.incarnation);
        let ledger = if comparable { ledger } else { Vec::new() };
        self.outbox.works = self.lacking(&ledger);
        self.resume_ms = now.monotonic_ms;
        self.outbox.welcome = Some(Welcome {
            protocol: PROTOCOL,
            features: features.into_iter().filter(|feature| FEATURES.contains(&feature.as_str())).collect(),
            hub: self.config.hub.clone(),
            incarnation: self.config.incarnation.clone(),
            cluster: self.member.uid.clone(),
            cluster_name: self.member.name.clone(),
            hub_time: now.wall,
            beat_interval_ms: BEAT_INTERVAL_MS,
            urls: self.config.urls.clone(),
        });
        let cluster = self.member.uid.clone();
        let mut effects = vec![Effect::Forward(FromAgent::Connected { cluster: cluster.clone() })];
        effects.extend(self.facts(facts));
        effects.extend(sketch.map(|sketch| Effect::Forward(FromAgent::Sketch { cluster, sketch })));
        effects
    }

    fn beat(&mut self, now: Now) -> Vec<Effect> {
        if self.beat_ms.is_some_and(|last| now.monotonic_ms < last + BEAT_MS_MIN) {
            return Vec::new();
        }
        self.beat_ms = Some(now.monotonic_ms);
        vec![Effect::Forward(FromAgent::Beat { cluster: self.member.uid.clone() })]
    }

    fn facts(&mut self, facts: Facts) -> Vec<Effect> {
        if let Some(refuse) = self.wrong_cluster(&facts) {
            return self.close(refuse);
        }
        if self.facts.as_ref() == Some(&facts) {
            return Vec::new();
        }
        self.facts = Some(facts.clone());
        vec![Effect::Forward(FromAgent::Facts { cluster: self.member.uid.clone(), facts })]
    }

    fn report(&mut self, now: Now, report: Box<Report>) -> Vec<Effect> {
        if report.cluster != self.member.uid {
            let message = format!("a report of cluster {} from cluster {}", report.cluster, self.member.uid);
            return self.deny_and_close(message);
        }
        let mut effects = self.beat(now);
        let (application, generation) = (report.application.clone(), report.generation);
        match self.work(&application) {
            Some(work) => {
                let finished = work.is_removal()
                    && work.generation == generation
                    && work.removals.iter().all(|removal| report.removed.contains(&removal.object));
                if finished {
                    self.finished.insert(application, generation);
                } else {
                    self.finished.remove(&application);
                }
                effects.push(Effect::Forward(FromAgent::Report { cluster: self.member.uid.clone(), report }));
            }
            // Nothing is decided for it here (any more), and by the agent's own word nothing of it runs.
            None if self.slice.revision > 0 && report.objects.is_empty() && report.components.is_empty() => {
                effects.push(Effect::AskReleased { application, generation });
            }
            None => {
                effects.push(Effect::Denied(format!("a report of application {application}, which has no work here")))
            }
        }
        effects
    }

    fn take_slice(&mut self, slice: Slice) -> Vec<Effect> {
        let previous = std::mem::replace(&mut self.slice, slice);
        if self.phase != Phase::Open {
            return Vec::new();
        }
        let mut effects = Vec::new();
        let mut before: BTreeMap<&Uid, &Arc<Work>> =
            previous.works.iter().map(|work| (&work.application_uid, work)).collect();
        for work in &self.slice.works {
            let old = before.remove(&work.application_uid);
            if old.is_some_and(|old| Arc::ptr_eq(old, work) || old == work) {
                continue;
            }
            self.replaced.extend(old.cloned());
            self.outbox.works.insert(work.application_uid.clone());
        }
        for (application, work) in before {
            self.outbox.works.remove(application);
            self.replaced.push_back(work.clone());
            // Only what the agent itself called finished is released; all else that went stays as it is.
            if let Some(generation) = self.finished.remove(application) {
                effects.push(Effect::AskReleased { application: application.clone(), generation });
            }
        }
        let surplus = self.replaced.len().saturating_sub(REPLACED_MAX);
        self.replaced.drain(..surplus);
        effects
    }

    fn fetch(&mut self, digests: &[Digest]) -> Vec<Effect> {
        let mut missing: BTreeSet<Digest> = digests.iter().copied().collect();
        for work in self.replaced.iter().rev().chain(&self.slice.works) {
            if missing.is_empty() {
                break;
            }
            for blob in work.blobs() {
                missing.remove(&blob);
            }
        }
        for digest in digests.iter().filter(|digest| !missing.contains(*digest)) {
            self.outbox.want(*digest);
        }
        let mut effects = self.read_next();
        if let Some(foreign) = missing.first() {
            let message = format!("blob {foreign}, which no work of cluster {} lists", self.member.uid);
            self.denials += 1;
            if self.denials > DENIALS_MAX {
                effects.extend(self.deny_and_close(message));
            } else {
                effects.push(Effect::Denied(message));
            }
        }
        effects
    }

    fn read_next(&mut self) -> Vec<Effect> {
        self.outbox.read_next().map(Effect::ReadBlob).into_iter().collect()
    }

    fn next_message(&mut self) -> Option<ToAgent> {
        let slice = &self.slice;
        self.outbox.next(|application| find(slice, application).cloned(), &self.config.stamp)
    }

    fn tick(&mut self, now: Now, revision: u64) -> Vec<Effect> {
        let deadline = match self.phase {
            Phase::Greeting { deadline_ms } => deadline_ms,
            _ => self.heard_ms + SILENCE_MS_MAX,
        };
        if now.monotonic_ms >= deadline {
            return self.close(refuse("Silent", "the stream was silent for too long", true));
        }
        if self.phase == Phase::Open && now.monotonic_ms >= self.resume_ms + RESUME_MS {
            self.resume_ms = now.monotonic_ms;
            if revision > self.resumed {
                self.resumed = revision;
                self.outbox.resume = Some(revision);
            }
        }
        Vec::new()
    }

    fn deny_and_close(&mut self, message: String) -> Vec<Effect> {
        let mut effects = vec![Effect::Denied(message.clone())];
        effects.extend(self.close(refuse("PermissionDenied", message, true)));
        effects
    }

    fn close(&mut self, refuse: Refuse) -> Vec<Effect> {
        let mut effects = self.gone();
        effects.push(Effect::Close(refuse));
        effects
    }

    fn gone(&mut self) -> Vec<Effect> {
        let was = std::mem::replace(&mut self.phase, Phase::Closed);
        self.outbox = Outbox::default();
        let cluster = self.member.uid.clone();
        if was == Phase::Open { vec![Effect::Forward(FromAgent::Disconnected { cluster })] } else { Vec::new() }
    }

    fn work(&self, application: &Uid) -> Option<&Arc<Work>> {
        find(&self.slice, application)
    }

    /// Applications whose work is not in the agent's ledger as it is now. Digests are dear, so only works whose generation
    /// is there are compared by content.
    fn lacking(&self, ledger: &[LedgerLine]) -> BTreeSet<Uid> {
        let held: BTreeMap<&Uid, &LedgerLine> = ledger.iter().map(|line| (&line.application, line)).collect();
        let lacks = |work: &&Arc<Work>| {
            let line = held.get(&work.application_uid).filter(|line| line.generation == work.generation);
            line.is_none_or(|line| line.digest != work.digest())
        };
        self.slice.works.iter().filter(lacks).map(|work| work.application_uid.clone()).collect()
    }
}

/// Slices are in order of application uid.
fn find<'a>(slice: &'a Slice, application: &Uid) -> Option<&'a Arc<Work>> {
    let index = slice.works.binary_search_by(|work| work.application_uid.cmp(application)).ok()?;
    slice.works.get(index)
}

fn refuse(reason: &str, message: impl Into<String>, retry: bool) -> Refuse {
    Refuse { reason: reason.into(), message: message.into(), retry }
}
