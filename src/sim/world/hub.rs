//! The hub replica of the simulated world: what its shells do, without their tasks.

use std::collections::BTreeMap;

use super::{At, Happening, World, link::Stream};
use crate::{
    hub::{
        agents::{
            claims::{self, Claim, Claims, Verdict},
            resume::Stamp,
            roster::{self, Roster},
            session::{self, Session},
        },
        control::{self, Controller},
        feed::Feed,
        keys,
        slices::Slices,
    },
    kinds,
    model::{Uid, protocol::Refuse, protocol::ToAgent, protocol::ToHub},
    sim::{check::Author, mutant::Mutant},
    store::{Error, Key, Operation, Outcome, Transaction, mvcc::Mvcc},
};

/// What survives a crash of the hub.
pub struct Disk {
    pub store: Mvcc,
    pub hub: Uid,
    pub incarnation: Uid,
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        let uid = |kind: &str| Uid(format!("{kind}-{seed:016x}"));
        Self { store: Mvcc::default(), hub: uid("hub"), incarnation: uid("incarnation") }
    }
}

/// One life of the hub process.
pub struct Hub {
    pub life: u64,
    pub slices: Slices,
    controller: Controller,
    roster: Roster,
    claims: Claims,
    sessions: BTreeMap<u64, Seat>,
    feeds: BTreeMap<Consumer, Cursor>,
    armed: Option<u64>,
}

struct Seat {
    at: At,
    session: Session,
    armed: Option<u64>,
    /// It waits until the slices have reached this revision.
    behind: Option<u64>,
}

/// Who reads the store's watch, each at its own pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumer {
    Control,
    Slices,
    Roster,
}

#[derive(Debug, Default)]
struct Cursor {
    /// Absent before the first listing.
    seen: Option<u64>,
    scheduled: bool,
}

const LEADER: &str = "/hanse/internal/leader";
/// How many revisions one delivery of a feed covers at most.
const FEED_MAX: usize = 64;
const CONSUMERS: [Consumer; 3] = [Consumer::Control, Consumer::Slices, Consumer::Roster];

impl Consumer {
    fn prefix(self) -> String {
        match self {
            Self::Control | Self::Slices => "/hanse/".to_owned(),
            Self::Roster => keys::prefix(&kinds::CLUSTER, None),
        }
    }
}

impl World {
    pub fn start_hub(&mut self) {
        self.hub_life += 1;
        let key = Key::new(LEADER);
        let value = bytes::Bytes::from(format!("1{{\"life\":{}}}", self.hub_life));
        let outcome = self.disk.store.commit(Transaction::put(key.clone(), value));
        let leader = match outcome {
            Ok(Outcome::Committed(revision)) => Some((key, revision)),
            _ => None,
        };
        let settings = control::Settings { leader, ..control::Settings::default() };
        self.hub = Some(Hub {
            life: self.hub_life,
            slices: Slices::new(),
            controller: Controller::new(settings),
            roster: Roster::default(),
            claims: Claims::default(),
            sessions: BTreeMap::new(),
            feeds: CONSUMERS.into_iter().map(|consumer| (consumer, Cursor::default())).collect(),
            armed: None,
        });
        self.trace.line(self.now_ms, format_args!("hub starts, life {}", self.hub_life));
        self.store_changed();
    }

    /// The process is gone, and what is not on disk with it. Its kernel ends its streams, but for a power cut, after
    /// which agents find out by themselves.
    pub fn crash_hub(&mut self, power_cut: bool) {
        let Some(hub) = self.hub.take() else { return };
        self.trace.line(self.now_ms, format_args!("hub crashes"));
        for (stream, seat) in hub.sessions {
            if !power_cut {
                self.send_down(stream, seat.at, None);
            }
        }
    }

    /// What the hub has on disk now, to go back to.
    pub fn back_up(&mut self) {
        self.backup = Some(self.disk.store.clone());
    }

    /// The hub comes back on an old disk: as a new incarnation where it was restored by the book, and as if nothing had
    /// happened where somebody copied files.
    pub fn restore(&mut self, by_the_book: bool) -> bool {
        let Some(store) = self.backup.clone() else { return false };
        self.crash_hub(false);
        self.disk.store = store;
        if by_the_book {
            self.disk.incarnation = self.new_uid("incarnation");
        }
        self.check.went_back();
        self.start_hub();
        true
    }

    pub fn is_hub_up(&self) -> bool {
        self.hub.is_some()
    }

    /// Tells the consumers of the store's watch, each after its own while.
    pub(super) fn store_changed(&mut self) {
        let Some(hub) = &mut self.hub else { return };
        let life = hub.life;
        let idle = hub.feeds.iter_mut().filter(|(_, cursor)| !cursor.scheduled);
        let waiting = idle.map(|(consumer, cursor)| {
            cursor.scheduled = true;
            *consumer
        });
        for consumer in waiting.collect::<Vec<_>>() {
            let delay = self.chance.between(1, 15);
            self.after(delay, Happening::Feed { life, consumer });
        }
    }

    pub(super) fn commit(&mut self, life: u64, id: u64, transaction: Transaction) {
        // What was on its way when the hub died may have reached the disk, and nobody was told.
        let alive = self.hub.as_ref().is_some_and(|hub| hub.life == life);
        if !alive && self.chance.happens(500) {
            return;
        }
        let transaction = match self.settings.mutant {
            Some(mutant) => mutant.on_commit(transaction),
            None => transaction,
        };
        if !transaction.compares.iter().any(|compare| compare.key().as_str() == LEADER) {
            let what = "the hub commits without comparing the leader's key: one that was deposed could write";
            self.check.violate(self.now_ms, 6, what.to_owned());
        }
        let outcome = self.write(transaction, Author::Hub);
        if let Ok(Outcome::Conflict(_)) = &outcome {
            self.trace.line(self.now_ms, format_args!("commit {id} conflicts"));
        }
        let outcome = if self.mishap() { Ok(Outcome::Unknown) } else { outcome };
        let delay = self.chance.between(0, 5);
        self.after(delay, Happening::Done { life, id, outcome });
    }

    /// Commits as anybody; the checker sees what changed.
    pub(super) fn write(&mut self, transaction: Transaction, author: Author) -> Result<Outcome, Error> {
        let before = self.disk.store.revision();
        let outcome = self.disk.store.commit(transaction);
        if self.disk.store.revision() > before {
            for event in self.disk.store.past("/hanse/", before, FEED_MAX).map(|past| past.events).unwrap_or_default() {
                if let crate::store::WatchEvent::Transaction { revision, changes } = event {
                    for change in changes.iter() {
                        self.trace.line(self.now_ms, format_args!("r{revision} {author:?} {}", change.key));
                    }
                    self.check.committed(self.now_ms, author, &changes);
                }
            }
            self.store_changed();
        }
        outcome
    }

    pub(super) fn done(&mut self, life: u64, id: u64, outcome: Result<Outcome, Error>) {
        self.control(life, control::Event::Done { id, outcome });
    }

    pub(super) fn feed(&mut self, life: u64, consumer: Consumer) {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.life == life) else { return };
        let Some(cursor) = hub.feeds.get_mut(&consumer) else { return };
        cursor.scheduled = false;
        let events = read_feed(&self.disk.store, &consumer.prefix(), cursor);
        if cursor.seen.is_some_and(|seen| seen < self.disk.store.revision()) {
            cursor.scheduled = true;
            self.after(1, Happening::Feed { life, consumer });
        }
        for event in events {
            match consumer {
                Consumer::Control => self.control(life, control::Event::Store(event)),
                Consumer::Slices => self.slices_changed(&event),
                Consumer::Roster => self.roster_changed(&event),
            }
        }
    }

    fn slices_changed(&mut self, event: &Feed) {
        let Some(hub) = &self.hub else { return };
        hub.slices.apply(event);
        self.check.sliced(self.now_ms, &hub.slices, &self.disk.store, &self.sites);
        for stream in hub.sessions.keys().copied().collect::<Vec<_>>() {
            self.offer_slice(stream);
        }
    }

    fn offer_slice(&mut self, stream: u64) {
        let Some(hub) = &self.hub else { return };
        let Some(seat) = hub.sessions.get(&stream) else { return };
        let slice = hub.slices.slice(&self.sites[seat.at].cluster);
        self.session_step(stream, session::Event::Slice(slice));
        self.catch_up(stream);
    }

    fn catch_up(&mut self, stream: u64) {
        let Some(hub) = &mut self.hub else { return };
        let reached = hub.slices.revision();
        let Some(seat) = hub.sessions.get_mut(&stream) else { return };
        if let Some(revision) = seat.behind.take_if(|behind| *behind <= reached) {
            self.session_step(stream, session::Event::CaughtUp { revision });
        }
    }

    fn roster_changed(&mut self, event: &Feed) {
        let Some(hub) = &mut self.hub else { return };
        let changed = hub.roster.apply(event);
        let concerned = hub.sessions.iter().filter(|(_, seat)| changed.contains(&self.sites[seat.at].cluster));
        let concerned = concerned
            .map(|(stream, seat)| (*stream, hub.roster.get(&self.sites[seat.at].cluster).map(|(_, member)| member)));
        for (stream, member) in concerned.collect::<Vec<_>>() {
            self.session_step(stream, session::Event::Member(member));
        }
    }

    pub(super) fn hub_tick(&mut self, life: u64) {
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.life == life) else { return };
        if hub.armed.is_some_and(|armed| armed <= self.now_ms) {
            hub.armed = None;
            self.control(life, control::Event::Tick);
        }
    }

    fn control(&mut self, life: u64, event: control::Event) {
        let now = self.now();
        let Some(hub) = self.hub.as_mut().filter(|hub| hub.life == life) else { return };
        let effects = hub.controller.step(now, event);
        let deadline = hub.controller.deadline();
        if let Some(deadline) = deadline.filter(|deadline| hub.armed.is_none_or(|armed| *deadline < armed)) {
            hub.armed = Some(deadline);
            self.after(deadline.saturating_sub(self.now_ms).max(1), Happening::HubTick { life });
        }
        for effect in effects {
            match effect {
                control::Effect::Commit { id, transaction } => {
                    let delay = self.chance.between(1, 8);
                    self.after(delay, Happening::Commit { life, id, transaction });
                }
                control::Effect::Compact(revision) => drop(self.disk.store.compact(revision)),
                control::Effect::Fault(what) => {
                    self.trace.line(self.now_ms, format_args!("control: {what:?}"));
                }
                control::Effect::StepDown => {
                    let violation = "the only replica stepped down though nobody else leads";
                    self.check.violate(self.now_ms, 13, violation.to_owned());
                }
            }
        }
    }

    /// A stream reached the hub.
    pub(super) fn accept(&mut self, stream: u64, at: At) {
        let now = self.now();
        let site = &self.sites[at];
        let Some(hub) = &mut self.hub else { return };
        if !hub.roster.is_synced() || hub.slices.revision() == 0 {
            return self.send_down(stream, at, None);
        }
        let Some((_, member)) = hub.roster.get(&site.cluster) else {
            self.send_down(stream, at, Some(ToAgent::Refuse(roster::unknown(&site.cluster))));
            self.send_down(stream, at, None);
            return;
        };
        let config = session::Config {
            hub: self.disk.hub.clone(),
            incarnation: self.disk.incarnation.clone(),
            stamp: Stamp::new(b"simulated", &self.disk.hub, &self.disk.incarnation, &site.cluster),
            key_fingerprint: site.key.clone(),
            urls: Vec::new(),
        };
        let (session, effects) = Session::open(config, member, now);
        hub.sessions.insert(stream, Seat { at, session, armed: None, behind: None });
        self.session_effects(stream, effects);
        self.offer_slice(stream);
    }

    /// What came up a stream; `None` is its end.
    pub(super) fn hear(&mut self, stream: u64, message: Option<ToHub>) {
        let Some(hub) = &self.hub else { return };
        let Some(seat) = hub.sessions.get(&stream) else { return };
        let at = seat.at;
        let Some(message) = message else {
            self.session_step(stream, session::Event::Gone);
            self.end_session(stream);
            return;
        };
        if self.settings.mutant == Some(Mutant::RepairsForever) && message == ToHub::Beat {
            self.repair_needlessly(at);
        }
        let message = match self.settings.mutant {
            Some(mutant) => mutant.on_the_way_up(message, &self.sites[at].ledger_entries()),
            None => message,
        };
        let (cluster, now_ms) = (self.sites[at].cluster.clone(), self.now_ms);
        if let Some(hub) = &mut self.hub {
            let verdicts = hub.claims.heard(now_ms, &cluster, seat_of(stream));
            self.judge(&cluster, verdicts);
        }
        self.session_step(stream, session::Event::Message { message, bytes: 256 });
    }

    pub(super) fn session_tick(&mut self, stream: u64) {
        let revision = self.disk.store.revision();
        let now_ms = self.now_ms;
        let Some(hub) = &mut self.hub else { return };
        let verdicts = hub.claims.tick(now_ms);
        let Some(seat) = hub.sessions.get_mut(&stream) else { return };
        seat.armed = None;
        let cluster = self.sites[seat.at].cluster.clone();
        self.judge(&cluster, verdicts);
        self.session_step(stream, session::Event::Tick { revision });
    }

    /// Offers the stream room for as long as it has some and the session wants it.
    pub(super) fn session_room(&mut self, stream: u64) {
        while self.streams.get(&stream).is_some_and(Stream::has_room_down)
            && self.hub.as_ref().and_then(|hub| hub.sessions.get(&stream)).is_some_and(|seat| seat.session.has_due())
        {
            self.session_step_once(stream, session::Event::Room);
        }
    }

    fn session_step(&mut self, stream: u64, event: session::Event) {
        self.session_step_once(stream, event);
        self.session_room(stream);
    }

    fn session_step_once(&mut self, stream: u64, event: session::Event) {
        let now = self.now();
        let Some(hub) = &mut self.hub else { return };
        let Some(seat) = hub.sessions.get_mut(&stream) else { return };
        let effects = seat.session.step(now, event);
        // Contests between two holders are judged on ticks too, so none is further away than a second.
        let wake_at = seat.session.wake_at().max(now.monotonic_ms + 1).min(now.monotonic_ms + 30_000);
        if seat.armed.is_none_or(|armed| wake_at < armed) {
            seat.armed = Some(wake_at);
            self.after(wake_at - now.monotonic_ms, Happening::SessionTick { stream });
        }
        self.session_effects(stream, effects);
    }

    fn session_effects(&mut self, stream: u64, effects: Vec<session::Effect>) {
        let now_ms = self.now_ms;
        for effect in effects {
            let Some(hub) = &mut self.hub else { return };
            let Some(at) = hub.sessions.get(&stream).map(|seat| seat.at) else { return };
            let cluster = self.sites[at].cluster.clone();
            match effect {
                session::Effect::Send(message) => self.send_down(stream, at, Some(message)),
                session::Effect::Forward(from) => {
                    let from = match self.settings.mutant {
                        Some(Mutant::ReservationsIgnored) => Mutant::claim_everything_bound(from),
                        _ => from,
                    };
                    let life = hub.life;
                    self.control(life, control::Event::Agent(from));
                }
                session::Effect::Claim { instance, epoch } => {
                    let verdicts = hub.claims.claim(now_ms, &cluster, Claim { seat: seat_of(stream), instance, epoch });
                    if verdicts.is_empty() {
                        // It waits for its predecessor's silence; look again when that is over.
                        self.after(12_000, Happening::SessionTick { stream });
                    }
                    self.judge(&cluster, verdicts);
                }
                session::Effect::CatchUp => {
                    let revision = self.disk.store.revision();
                    if let Some(seat) = hub.sessions.get_mut(&stream) {
                        seat.behind = Some(revision);
                    }
                    self.catch_up(stream);
                }
                session::Effect::ReadBlob(digest) => {
                    let bytes = hub.slices.blob(&cluster, &digest);
                    self.session_step_once(stream, session::Event::Blob { digest, bytes });
                }
                session::Effect::AskReleased { application, generation } => {
                    if hub.slices.is_released(&application, &cluster) {
                        self.session_step_once(stream, session::Event::Released { application, generation });
                    }
                }
                session::Effect::PauseUntil(_) => {}
                session::Effect::Denied(what) => {
                    self.trace.line(now_ms, format_args!("denied: {what}"));
                }
                session::Effect::Close(refuse) => {
                    self.trace.line(now_ms, format_args!("hub refuses {}: {refuse}", self.sites[at].name));
                    self.send_down(stream, at, Some(ToAgent::Refuse(refuse)));
                    self.send_down(stream, at, None);
                    self.end_session(stream);
                }
            }
        }
    }

    fn end_session(&mut self, stream: u64) {
        let Some(hub) = &mut self.hub else { return };
        let Some(seat) = hub.sessions.remove(&stream) else { return };
        let site = &self.sites[seat.at];
        let (cluster, key) = (site.cluster.clone(), keys::key(&kinds::CLUSTER, "", &site.name));
        let verdicts = hub.claims.closed(&cluster, seat_of(stream));
        self.judge(&cluster, verdicts);
        if self.settings.mutant == Some(Mutant::SilenceEvicts) {
            let transaction = Transaction { compares: vec![], operations: vec![Operation::Delete(key)] };
            let _ = self.write(transaction, Author::Hub);
        }
    }

    fn judge(&mut self, cluster: &Uid, verdicts: Vec<Verdict>) {
        for verdict in verdicts {
            match verdict {
                Verdict::Admitted(seat) => self.session_step(seat.session, session::Event::Admitted),
                Verdict::Superseded(seat) => {
                    let message = "another stream of this cluster acts".to_owned();
                    let refuse = Refuse { reason: "Superseded".into(), message, retry: true };
                    self.session_step(seat.session, session::Event::Refused(refuse));
                }
                Verdict::Frozen { .. } => {
                    let violation = format!("cluster {cluster} was frozen though it has one agent");
                    self.check.violate(self.now_ms, 10, violation);
                }
            }
        }
    }
}

/// There is one replica here.
fn seat_of(stream: u64) -> claims::Seat {
    claims::Seat { replica: 1, session: stream }
}

fn read_feed(store: &Mvcc, prefix: &str, cursor: &mut Cursor) -> Vec<Feed> {
    if let Some(seen) = cursor.seen
        && let Ok(past) = store.past(prefix, seen, FEED_MAX)
    {
        cursor.seen = Some(past.until);
        let transactions = past.events.into_iter().filter_map(|event| match event {
            crate::store::WatchEvent::Transaction { revision, changes } => Some(Feed::Changed { revision, changes }),
            crate::store::WatchEvent::Progress(_) => None,
        });
        return transactions.chain([Feed::Progress(past.until)]).collect();
    }
    let revision = store.revision();
    cursor.seen = Some(revision);
    let entries = store.entries().filter(|entry| entry.key.as_str().starts_with(prefix)).collect();
    vec![Feed::Reset { entries, revision }]
}
