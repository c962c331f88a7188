//! The leader's side: one desk for what the agents of all replicas say.
//!
//! Owns: which stream acts for each cluster, at whichever replica it is ([`Claims`]); what of each replica's reports is
//! settled; and when each cluster was last heard of. It lives as long as one term of one leader. Must never: pass on what a
//! stream says that does not act for its cluster, or take the end of a replica's stream for the end of its agents' streams:
//! only silence counts, and that is for control to see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    hub::{
        agents::claims::{Claim, Claims, Seat, Verdict},
        control::FromAgent,
    },
    model::{Note, Now, Timestamp, Uid},
    store::raft::ReplicaId,
    wire::{Fact, FromDesk, Ruling, ToDesk, limits::BEATS_MAX},
};

/// How often contests are looked at and beats are told.
const TICK_MS: u64 = 1_000;

/// A replica's stream; `line` tells a newer one from the older.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub replica: ReplicaId,
    pub line: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Opened(Line),
    Said(Line, ToDesk),
    Closed(Line),
    /// Of the reports handed on, the first so many are stored or say nothing new.
    Settled(u64),
    /// The time of [`Desk::deadline`]; harmless at any other.
    Tick,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Tell(Line, FromDesk),
    /// To control. Reports are counted in this order.
    HandOn(FromAgent),
    Note(Note),
}

#[derive(Debug, Default)]
pub struct Desk {
    claims: Claims,
    lines: BTreeMap<ReplicaId, Open>,
    /// Every stream that asked to act, and for whom.
    seats: BTreeMap<Seat, Uid>,
    /// Reports handed on.
    handed: u64,
    beats: BTreeMap<Uid, Timestamp>,
    /// Heard of since beats were last told.
    beaten: BTreeSet<Uid>,
    tick_ms: u64,
}

#[derive(Debug)]
struct Open {
    line: u64,
    /// Reports that are not settled: how many were handed on with it, and its number on the line.
    owed: VecDeque<(u64, u64)>,
}

impl Desk {
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        match event {
            Event::Opened(line) => {
                self.lines.insert(line.replica, Open { line: line.line, owed: VecDeque::new() });
                Vec::new()
            }
            Event::Said(line, said) if self.is_open(line) => self.said(now, line, said),
            Event::Closed(line) if self.is_open(line) => {
                self.lines.remove(&line.replica);
                Vec::new()
            }
            // Of a line that a newer one replaced.
            Event::Said(..) | Event::Closed(_) => Vec::new(),
            Event::Settled(settled) => self.settled(settled),
            Event::Tick if now.monotonic_ms >= self.tick_ms => {
                self.tick_ms = now.monotonic_ms + TICK_MS;
                let verdicts = self.claims.tick(now.monotonic_ms);
                let mut effects = self.rule(verdicts);
                let beaten = std::mem::take(&mut self.beaten);
                let fresh: Vec<_> =
                    beaten.into_iter().filter_map(|cluster| self.beats.get_key_value(&cluster)).collect();
                let lines = self.lines.iter().map(|(replica, open)| Line { replica: *replica, line: open.line });
                effects.extend(lines.flat_map(|line| tell_beats(line, &fresh)));
                effects
            }
            Event::Tick => Vec::new(),
        }
    }

    pub fn deadline(&self) -> u64 {
        self.tick_ms
    }

    fn is_open(&self, line: Line) -> bool {
        self.lines.get(&line.replica).is_some_and(|open| open.line == line.line)
    }

    fn said(&mut self, now: Now, line: Line, said: ToDesk) -> Vec<Effect> {
        let seat = |session| Seat { replica: line.replica, session };
        match said {
            ToDesk::Begin { sessions } => {
                let standing: BTreeSet<u64> = sessions.into_iter().collect();
                let (first, last) = (seat(0), seat(u64::MAX));
                let gone: Vec<Seat> = self
                    .seats
                    .range(first..=last)
                    .map(|(seat, _)| *seat)
                    .filter(|seat| !standing.contains(&seat.session))
                    .collect();
                let mut effects: Vec<Effect> = gone.into_iter().flat_map(|seat| self.left(seat)).collect();
                effects.extend(tell_beats(line, &self.beats.iter().collect::<Vec<_>>()));
                effects
            }
            ToDesk::Claim { session, cluster, instance, epoch } => {
                let seat = seat(session);
                let known = self.seats.entry(seat).or_insert_with(|| cluster.clone());
                if *known != cluster {
                    return Vec::new();
                }
                let claim = Claim { seat, instance, epoch };
                let verdicts = self.claims.claim(now.monotonic_ms, &cluster, claim);
                self.rule(verdicts)
            }
            ToDesk::Said { session, age_ms, fact } => self.fact(now, line, seat(session), age_ms, fact),
            ToDesk::Left { session } => self.left(seat(session)),
            ToDesk::WentBack { cluster, revision } => {
                vec![Effect::HandOn(FromAgent::StoreWentBack { cluster, revision })]
            }
            ToDesk::Note(note) => vec![Effect::Note(note)],
        }
    }

    fn fact(&mut self, now: Now, line: Line, seat: Seat, age_ms: u64, fact: Fact) -> Vec<Effect> {
        let Some(cluster) = self.seats.get(&seat).cloned() else { return Vec::new() };
        let verdicts = self.claims.heard(now.monotonic_ms.saturating_sub(age_ms), &cluster, seat);
        let mut effects = self.rule(verdicts);
        if !self.claims.holds(&cluster, seat) {
            return effects;
        }
        self.beats.insert(cluster.clone(), now.wall);
        self.beaten.insert(cluster.clone());
        effects.push(Effect::HandOn(match fact {
            Fact::Beat => FromAgent::Beat { cluster },
            Fact::Facts(facts) => FromAgent::Facts { cluster, facts },
            Fact::Sketch(sketch) => FromAgent::Sketch { cluster, sketch },
            Fact::Report { number, report } => {
                self.handed += 1;
                if let Some(open) = self.lines.get_mut(&line.replica) {
                    open.owed.push_back((self.handed, number));
                }
                FromAgent::Report { cluster, report }
            }
        }));
        effects
    }

    fn left(&mut self, seat: Seat) -> Vec<Effect> {
        let Some(cluster) = self.seats.remove(&seat) else { return Vec::new() };
        let held = self.claims.holds(&cluster, seat);
        let verdicts = self.claims.closed(&cluster, seat);
        let mut effects = self.rule(verdicts);
        if held {
            effects.push(Effect::HandOn(FromAgent::Disconnected { cluster }));
        }
        effects
    }

    fn rule(&mut self, verdicts: Vec<Verdict>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut tell = |seat: Seat, ruling| {
            // Where no line stands the replica asks again on the next one.
            let open = self.lines.get(&seat.replica)?;
            let line = Line { replica: seat.replica, line: open.line };
            effects.push(Effect::Tell(line, FromDesk::Ruling { session: seat.session, ruling }));
            Some(())
        };
        let mut frozen = Vec::new();
        for verdict in verdicts {
            let _told = match verdict {
                Verdict::Admitted(seat) => tell(seat, Ruling::Granted),
                Verdict::Superseded(seat) => tell(seat, Ruling::Superseded),
                Verdict::Frozen { holder, challenger } => {
                    frozen.extend(self.seats.get(&holder).cloned());
                    tell(holder, Ruling::Frozen);
                    tell(challenger, Ruling::Frozen)
                }
            };
        }
        effects.extend(frozen.into_iter().map(|cluster| Effect::HandOn(FromAgent::Frozen { cluster })));
        effects
    }

    fn settled(&mut self, settled: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (replica, open) in &mut self.lines {
            let done = open.owed.iter().take_while(|(handed, _)| *handed <= settled).count();
            if let Some((_, number)) = open.owed.drain(..done).next_back() {
                let line = Line { replica: *replica, line: open.line };
                effects.push(Effect::Tell(line, FromDesk::Settled { number }));
            }
        }
        effects
    }
}

fn tell_beats(line: Line, beats: &[(&Uid, &Timestamp)]) -> Vec<Effect> {
    let message = |beats: &[(&Uid, &Timestamp)]| {
        let beats = beats.iter().map(|(cluster, at)| ((*cluster).clone(), **at)).collect();
        Effect::Tell(line, FromDesk::Beats(beats))
    };
    beats.chunks(BEATS_MAX).map(message).collect()
}
