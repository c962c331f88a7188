//! The process of one hub replica, around its store: what its shells do, without their tasks.
//!
//! Owns: who reads the store's watch, and the streams of agents. [`super::lead`] is what it does while it leads, and
//! [`super::post`] the way of what its agents say to whoever leads.

use std::{collections::BTreeMap, sync::Arc};

use super::{At, Happening, World, group::Ask, lead::Lead, link::Stream};
use crate::{
    hub::{
        agents::{self, resume::Stamp, roster, roster::Roster, session, session::Session},
        control::{FromAgent, turn},
        desk::outpost::{self, Outpost},
        feed::Feed,
        keys,
        slices::Slices,
    },
    kinds,
    model::{Now, Timestamp, Uid, protocol::Refuse, protocol::ToAgent, protocol::ToHub},
    sim::{mutant::Mutant, replicas::outside::Reply},
    store::{
        Key, Operation, Transaction,
        mvcc::Mvcc,
        raft::{Leadership, ReplicaId},
    },
    wire::Ruling,
};

/// One life of one replica's process: what is for a dead one is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub id: ReplicaId,
    pub life: u64,
}

pub struct Hub {
    pub process: Process,
    pub slices: Slices,
    pub roster: Roster,
    pub sessions: BTreeMap<u64, Seat>,
    pub feeds: BTreeMap<Consumer, Cursor>,
    pub outpost: Outpost,
    pub post_armed: Option<u64>,
    /// It hears of no leader.
    pub cut_off: bool,
    pub leadership: Leadership,
    /// To the desk of whoever leads.
    pub line: Option<u64>,
    pub retry_ms: u64,
    pub lead: Option<Lead>,
    /// What happens to it while it is paused.
    pub held: Vec<Happening>,
    clock_ms: u64,
    /// What its clock showed at [`super::DAWN_MS`], as it believes.
    dawn_ms: u64,
}

pub struct Seat {
    pub at: At,
    pub cluster: Uid,
    session: Session,
    armed: Option<u64>,
    /// It waits until the slices have reached this revision.
    behind: Option<u64>,
    /// The first turn at leading that was told of its sketch.
    pub first_turn: Option<u64>,
}

/// Who reads the store's watch, each at its own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    Control,
    Slices,
    Roster,
}

#[derive(Debug, Default)]
pub struct Cursor {
    /// Tells this reader from the one of an earlier turn.
    pub number: u64,
    /// Absent before the first listing.
    seen: Option<u64>,
    scheduled: bool,
}

impl Cursor {
    pub fn new(number: u64) -> Self {
        Self { number, ..Self::default() }
    }
}

/// How many revisions one delivery of a feed covers at most.
const FEED_MAX: usize = 64;
const LIST_RETRY_MS: u64 = 50;

impl Consumer {
    fn prefix(self) -> String {
        match self {
            Self::Control | Self::Slices => "/hanse/".to_owned(),
            Self::Roster => keys::prefix(&kinds::CLUSTER, None),
        }
    }
}

impl World {
    pub(super) fn hub_starts(&mut self, id: ReplicaId) {
        self.sequence += 1;
        let process = Process { id, life: self.sequence };
        let clock_ms = self.group.clock_ms(id);
        self.trace.line(self.now_ms, format_args!("hub {id} starts"));
        let hub = Hub {
            process,
            slices: Slices::new(),
            roster: Roster::default(),
            sessions: BTreeMap::new(),
            feeds: [Consumer::Slices, Consumer::Roster].map(|consumer| (consumer, Cursor::default())).into(),
            outpost: Outpost::default(),
            post_armed: None,
            cut_off: false,
            leadership: Leadership::default(),
            line: None,
            retry_ms: 0,
            lead: None,
            held: Vec::new(),
            clock_ms,
            dawn_ms: clock_ms.saturating_sub(self.now_ms),
        };
        self.hubs.insert(id, hub);
        for consumer in [Consumer::Slices, Consumer::Roster] {
            self.list(process, consumer, 0);
        }
        self.arm_post(process);
    }

    /// The process is gone, and what is not on disk with it. Its kernel ends its streams, but for a power cut, after
    /// which everybody finds out by himself.
    pub(super) fn hub_dies(&mut self, id: ReplicaId, power: bool) {
        let Some(hub) = self.hubs.remove(&id) else { return };
        self.trace.line(self.now_ms, format_args!("hub {id} dies"));
        for (stream, seat) in hub.sessions {
            if !power {
                self.send_down(stream, seat.at, None);
            }
        }
        self.lines_of_the_dead(hub.process, power);
    }

    pub(super) fn is_alive(&self, process: Process) -> bool {
        self.hubs.get(&process.id).is_some_and(|hub| hub.process == process)
    }

    pub(super) fn hub(&mut self, process: Process) -> Option<&mut Hub> {
        self.hubs.get_mut(&process.id).filter(|hub| hub.process == process)
    }

    /// As the process reads its clocks. The monotonic one may run too fast or slow, and jump, but never back.
    pub(super) fn now_at(&mut self, process: Process) -> Now {
        let clock_ms = self.group.clock_ms(process.id);
        let now = self.now();
        let Some(hub) = self.hub(process) else { return now };
        hub.clock_ms = hub.clock_ms.max(clock_ms);
        let wall = Timestamp::from_millis(super::DAWN_MS + clock_ms as i64 - hub.dawn_ms as i64);
        Now { wall, monotonic_ms: hub.clock_ms }
    }

    /// In how many milliseconds the clock of this process shows that.
    pub(super) fn until_ms(&self, id: ReplicaId, local_ms: u64) -> u64 {
        (self.group.when_us(id, local_ms).div_ceil(1000)).saturating_sub(self.now_ms).clamp(1, 120_000)
    }

    /// The state of a replica has moved on: tells the consumers of its watch, each after its own while.
    pub(super) fn applied(&mut self, id: ReplicaId) {
        let Some(hub) = self.hubs.get_mut(&id) else { return };
        let process = hub.process;
        let idle = hub.feeds.iter_mut().filter(|(_, cursor)| !cursor.scheduled && cursor.seen.is_some());
        let waiting = idle.map(|(consumer, cursor)| {
            cursor.scheduled = true;
            *consumer
        });
        for consumer in waiting.collect::<Vec<_>>() {
            let delay = self.chance.between(1, 15);
            self.after(delay, Happening::Feed { process, consumer });
        }
    }

    /// Lists what a consumer reads, as of all that was acknowledged.
    pub(super) fn list(&mut self, process: Process, consumer: Consumer, number: u64) {
        self.ask_to_read(process, Key::new("/"), Ask::List { consumer, number });
    }

    pub(super) fn listed(&mut self, process: Process, consumer: Consumer, number: u64, reply: &Reply) {
        let Some(hub) = self.hubs.get_mut(&process.id).filter(|hub| hub.process == process) else { return };
        let Some(cursor) = hub.feeds.get_mut(&consumer).filter(|cursor| cursor.number == number) else { return };
        let prefix = consumer.prefix();
        let all = |store: &Mvcc| {
            let entries = store.entries().filter(|entry| entry.key.as_str().starts_with(&prefix)).collect();
            (store.revision(), Feed::Reset { entries, revision: store.revision() })
        };
        match (reply, self.group.look_at(process.id, all)) {
            (Reply::Read(..), Some((revision, feed))) => {
                cursor.seen = Some(revision);
                self.consume(process, consumer, &feed);
            }
            _ => self.after(LIST_RETRY_MS, Happening::List { process, consumer, number }),
        }
    }

    pub(super) fn feed(&mut self, process: Process, consumer: Consumer) {
        let Some(hub) = self.hubs.get_mut(&process.id).filter(|hub| hub.process == process) else { return };
        let Some(cursor) = hub.feeds.get_mut(&consumer) else { return };
        cursor.scheduled = false;
        let Some(seen) = cursor.seen else { return };
        let past =
            self.group.look_at(process.id, |store| (store.past(&consumer.prefix(), seen, FEED_MAX), store.revision()));
        let Some((past, revision)) = past else { return };
        let Ok(past) = past else {
            cursor.seen = None;
            let number = cursor.number;
            return self.list(process, consumer, number);
        };
        cursor.seen = Some(past.until);
        if past.until < revision {
            cursor.scheduled = true;
            self.after(1, Happening::Feed { process, consumer });
        }
        for event in past.events {
            if let crate::store::WatchEvent::Transaction { revision, changes } = event {
                self.consume(process, consumer, &Feed::Changed { revision, changes });
            }
        }
        self.consume(process, consumer, &Feed::Progress(past.until));
    }

    fn consume(&mut self, process: Process, consumer: Consumer, feed: &Feed) {
        match consumer {
            Consumer::Control => self.turn_step(process, turn::Event::Store(feed.clone())),
            Consumer::Slices => self.slices_changed(process, feed),
            Consumer::Roster => self.roster_changed(process, feed),
        }
    }

    fn slices_changed(&mut self, process: Process, feed: &Feed) {
        let Some(hub) = self.hub(process) else { return };
        hub.slices.apply(feed);
        for stream in hub.sessions.keys().copied().collect::<Vec<_>>() {
            self.offer_slice(process, stream);
        }
    }

    fn offer_slice(&mut self, process: Process, stream: u64) {
        let Some(hub) = self.hub(process) else { return };
        let Some(seat) = hub.sessions.get(&stream) else { return };
        let slice = hub.slices.slice(&seat.cluster);
        self.session_step(process, stream, session::Event::Slice(slice));
        let Some(hub) = self.hub(process) else { return };
        let reached = hub.slices.revision();
        let Some(seat) = hub.sessions.get_mut(&stream) else { return };
        if let Some(revision) = seat.behind.take_if(|behind| *behind <= reached) {
            self.session_step(process, stream, session::Event::CaughtUp { revision });
        }
    }

    fn roster_changed(&mut self, process: Process, feed: &Feed) {
        let Some(hub) = self.hub(process) else { return };
        let changed = hub.roster.apply(feed);
        let concerned = hub.sessions.iter().filter(|(_, seat)| changed.contains(&seat.cluster));
        let concerned =
            concerned.map(|(stream, seat)| (*stream, hub.roster.get(&seat.cluster).map(|(_, member)| member)));
        for (stream, member) in concerned.collect::<Vec<_>>() {
            self.session_step(process, stream, session::Event::Member(member));
        }
    }

    /// A stream reached the replica.
    pub(super) fn accept(&mut self, process: Process, stream: u64, at: At) {
        let (cluster, key) = (self.sites[at].cluster.clone(), self.sites[at].key.clone());
        let Some(hub) = self.hub(process) else { return };
        if !hub.roster.is_synced() || hub.slices.revision() == 0 || hub.cut_off {
            return self.send_down(stream, at, None);
        }
        match hub.roster.get(&cluster).filter(|(_, member)| member.admits(&key).is_ok()) {
            Some((_, member)) => self.open_session(process, stream, at, member),
            // The roster may be a moment behind.
            None => self.ask_to_read(process, Key::new("/"), Ask::Member { stream }),
        }
    }

    pub(super) fn member_read(&mut self, process: Process, stream: u64, reply: &Reply) {
        let Some(at) = self.streams.get(&stream).map(Stream::at) else { return };
        let cluster = self.sites[at].cluster.clone();
        let prefix = keys::prefix(&kinds::CLUSTER, None);
        let find = |store: &Mvcc| {
            let clusters = store.entries().filter(|entry| entry.key.as_str().starts_with(&prefix));
            clusters.filter_map(|entry| roster::read(&entry)).find(|member| member.uid == cluster)
        };
        match (reply, self.group.look_at(process.id, find)) {
            (Reply::Read(..), Some(Some(member))) => self.open_session(process, stream, at, Arc::new(member)),
            (Reply::Read(..), Some(None)) => {
                self.send_down(stream, at, Some(ToAgent::Refuse(roster::unknown(&cluster))));
                self.send_down(stream, at, None);
            }
            _ => self.send_down(stream, at, None),
        }
    }

    fn open_session(&mut self, process: Process, stream: u64, at: At, member: Arc<roster::Member>) {
        let now = self.now_at(process);
        let site = &self.sites[at];
        let cluster = member.uid.clone();
        let config = session::Config {
            hub: self.hub_uid.clone(),
            incarnation: self.incarnation.clone(),
            stamp: Stamp::new(b"simulated", &self.hub_uid, &self.incarnation, &cluster),
            key_fingerprint: site.key.clone(),
            urls: self.group.all().into_iter().map(super::site::url).collect(),
        };
        let (session, effects) = Session::open(config, member, now);
        let Some(hub) = self.hub(process) else { return };
        hub.sessions.insert(stream, Seat { at, cluster, session, armed: None, behind: None, first_turn: None });
        self.session_effects(process, stream, effects);
        self.offer_slice(process, stream);
    }

    /// What came up a stream; `None` is its end.
    pub(super) fn hear(&mut self, process: Process, stream: u64, message: Option<ToHub>) {
        let now_ms = self.now_ms;
        let Some(seat) = self.hub(process).and_then(|hub| hub.sessions.get(&stream)) else { return };
        let at = seat.at;
        let Some(message) = message else {
            self.session_step(process, stream, session::Event::Gone);
            return self.end_session(process, stream);
        };
        self.check.heard(now_ms, &self.sites[at].cluster);
        if self.settings.mutant == Some(Mutant::RepairsForever) && message == ToHub::Beat {
            self.repair_needlessly(at);
        }
        let message = match self.settings.mutant {
            Some(mutant) => mutant.on_the_way_up(message, &self.sites[at].ledger_entries()),
            None => message,
        };
        self.session_step(process, stream, session::Event::Message { message, bytes: 256 });
    }

    pub(super) fn session_tick(&mut self, process: Process, stream: u64) {
        let Some(hub) = self.hub(process) else { return };
        let revision = hub.slices.revision();
        let Some(seat) = hub.sessions.get_mut(&stream) else { return };
        seat.armed = None;
        self.session_step(process, stream, session::Event::Tick { revision });
    }

    /// Offers the stream room for as long as it has some and the session wants it.
    pub(super) fn session_room(&mut self, process: Process, stream: u64) {
        while self.streams.get(&stream).is_some_and(Stream::has_room_down)
            && self.hub(process).and_then(|hub| hub.sessions.get(&stream)).is_some_and(|seat| seat.session.has_due())
        {
            self.session_step_once(process, stream, session::Event::Room);
        }
    }

    pub(super) fn session_step(&mut self, process: Process, stream: u64, event: session::Event) {
        self.session_step_once(process, stream, event);
        self.session_room(process, stream);
    }

    fn session_step_once(&mut self, process: Process, stream: u64, event: session::Event) {
        let now = self.now_at(process);
        let Some(seat) = self.hub(process).and_then(|hub| hub.sessions.get_mut(&stream)) else { return };
        let effects = seat.session.step(now, event);
        let wake_at = seat.session.wake_at().max(now.monotonic_ms + 1);
        if seat.armed.is_none_or(|armed| wake_at < armed) {
            seat.armed = Some(wake_at);
            let delay = self.until_ms(process.id, wake_at);
            self.after(delay, Happening::SessionTick { process, stream });
        }
        self.session_effects(process, stream, effects);
    }

    fn session_effects(&mut self, process: Process, stream: u64, effects: Vec<session::Effect>) {
        for effect in effects {
            let Some(hub) = self.hub(process) else { return };
            let Some((at, cluster)) = hub.sessions.get(&stream).map(|seat| (seat.at, seat.cluster.clone())) else {
                return;
            };
            match effect {
                session::Effect::Send(message) => self.send_down(stream, at, Some(message)),
                session::Effect::Forward(from) => {
                    let from = match self.settings.mutant {
                        Some(Mutant::ReservationsIgnored) => Mutant::claim_everything_bound(from),
                        Some(Mutant::HealthAssumed) => Mutant::claim_everything_ready(from),
                        _ => from,
                    };
                    self.post(process, outpost::Event::Said { session: stream, from });
                }
                session::Effect::Claim { instance, epoch } => {
                    self.post(process, outpost::Event::Claimed { session: stream, cluster, instance, epoch });
                }
                session::Effect::CatchUp => self.begin_to_catch_up(process, stream),
                session::Effect::ReadBlob(digest) => {
                    let bytes = hub.slices.blob(&cluster, &digest);
                    self.session_step_once(process, stream, session::Event::Blob { digest, bytes });
                }
                session::Effect::AskReleased { application, generation } => {
                    if hub.slices.is_released(&application, &cluster) {
                        let event = session::Event::Released { application, generation };
                        self.session_step_once(process, stream, event);
                    }
                }
                session::Effect::PauseUntil(_) => {}
                session::Effect::Denied(what) => {
                    self.trace.line(self.now_ms, format_args!("denied: {what}"));
                }
                session::Effect::Close(refuse) => {
                    let (name, id) = (&self.sites[at].name, process.id);
                    self.trace.line(self.now_ms, format_args!("hub {id} refuses {name}: {refuse}"));
                    self.send_down(stream, at, Some(ToAgent::Refuse(refuse)));
                    self.send_down(stream, at, None);
                    self.end_session(process, stream);
                }
            }
        }
    }

    fn begin_to_catch_up(&mut self, process: Process, stream: u64) {
        let floor = self.group.check.revision();
        if self.settings.mutant == Some(Mutant::StaleServed) {
            let revision = self.hub(process).map_or(0, |hub| hub.slices.revision());
            return self.caught_up(process, stream, floor, &Reply::Read(revision, None));
        }
        self.ask_to_read(process, Key::new("/"), Ask::CatchUp { stream, floor });
        let patience = agents::CATCH_UP_TIMEOUT.as_millis() as u64;
        self.after(patience, Happening::CatchUpLate { process, stream });
    }

    pub(super) fn caught_up(&mut self, process: Process, stream: u64, floor: u64, reply: &Reply) {
        let now_ms = self.now_ms;
        let Reply::Read(revision, _) = reply else {
            return self.after(10, Happening::CatchUpAgain { process, stream });
        };
        if *revision < floor {
            let what = format!("replica {} takes revision {revision} for current, when {floor} was known", process.id);
            self.check.violate(now_ms, 15, what);
        }
        let Some(seat) = self.hub(process).and_then(|hub| hub.sessions.get_mut(&stream)) else { return };
        seat.behind = Some(*revision);
        self.offer_slice(process, stream);
    }

    pub(super) fn catch_up_again(&mut self, process: Process, stream: u64) {
        if self.hub(process).is_some_and(|hub| hub.sessions.contains_key(&stream)) {
            let floor = self.group.check.revision();
            self.ask_to_read(process, Key::new("/"), Ask::CatchUp { stream, floor });
        }
    }

    /// It has waited long enough; where it was done in time the session does not care.
    pub(super) fn catch_up_late(&mut self, process: Process, stream: u64) {
        let waits =
            self.hub(process).and_then(|hub| hub.sessions.get(&stream)).is_some_and(|seat| seat.behind.is_some());
        if waits {
            self.session_step(process, stream, session::Event::Refused(agents::behind()));
        }
    }

    fn end_session(&mut self, process: Process, stream: u64) {
        let Some(hub) = self.hub(process) else { return };
        let Some(seat) = hub.sessions.remove(&stream) else { return };
        let key = keys::key(&kinds::CLUSTER, "", &self.sites[seat.at].name);
        self.post(process, outpost::Event::Left { session: stream });
        if self.settings.mutant == Some(Mutant::SilenceEvicts) {
            let transaction = Transaction { compares: vec![], operations: vec![Operation::Delete(key)] };
            self.submit(process, None, transaction, Ask::Nothing);
        }
    }

    /// What the leader rules of a stream.
    pub(super) fn rule(&mut self, process: Process, stream: u64, ruling: Ruling) {
        let Some(seat) = self.hub(process).and_then(|hub| hub.sessions.get(&stream)) else { return };
        if ruling == Ruling::Frozen {
            let violation = format!("cluster {} was frozen though it has one agent", seat.cluster);
            self.check.violate(self.now_ms, 10, violation);
        }
        let refused = agents::refusal(ruling).map(session::Event::Refused);
        self.session_step(process, stream, refused.unwrap_or(session::Event::Admitted));
    }

    pub(super) fn refuse_all(&mut self, process: Process, refuse: &Refuse) {
        let Some(hub) = self.hub(process) else { return };
        for stream in hub.sessions.keys().copied().collect::<Vec<_>>() {
            self.session_step(process, stream, session::Event::Refused(refuse.clone()));
        }
    }

    /// A stream of this replica has been spoken on: what it said counts as a sign of life to a new leader.
    pub(super) fn speak_for_all(&mut self, process: Process) {
        let Some(hub) = self.hub(process) else { return };
        let seats = hub.sessions.iter().map(|(stream, seat)| (*stream, seat.cluster.clone())).collect::<Vec<_>>();
        for (session, cluster) in seats {
            self.post(process, outpost::Event::Said { session, from: FromAgent::Beat { cluster } });
        }
    }
}
