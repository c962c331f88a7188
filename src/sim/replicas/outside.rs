//! A group of replicas as a part of a larger world: what that one asks of it, and is told by it.
//!
//! Must never: let what is outside touch a core; it reads states, asks as a client does, and is told what the real shell tells
//! the rest of its process.

use bytes::Bytes;

use super::{Happening, Settings, World, shell::Asker};
use crate::{
    model::Uid,
    sim::chance::Chance,
    store::{
        Key,
        mvcc::Mvcc,
        raft::{
            Leadership, ReplicaId,
            core::{Reads, Timing},
        },
    },
};

pub use super::shell::{Reply, Request};

/// What a group begins with.
#[derive(Debug)]
pub struct Founding {
    pub replicas: usize,
    pub timing: Timing,
    pub reads: Reads,
    pub history_revisions_max: u64,
    pub incarnation: Uid,
    /// What the store holds.
    pub state: Mvcc,
    pub now_us: u64,
    /// How many times as slow faults come and go as they do in a world of replicas alone, which lasts seconds.
    pub tempo: u64,
}

impl Default for Founding {
    fn default() -> Self {
        Self {
            replicas: 3,
            timing: Timing::default(),
            reads: Reads::Index,
            history_revisions_max: 1_000,
            incarnation: Uid::default(),
            state: Mvcc::default(),
            now_us: 0,
            tempo: 1,
        }
    }
}

impl Founding {
    /// By index, or by lease. Drawn on its own, so that what else a seed says stays.
    pub fn reads(seed: u64) -> Reads {
        if Chance::new(!seed).happens(250) { Reads::Lease } else { Reads::Index }
    }
}

/// What the rest of a replica's process, and the world, is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    Started {
        id: ReplicaId,
        life: u64,
    },
    Died {
        id: ReplicaId,
        power: bool,
    },
    Resumed {
        id: ReplicaId,
    },
    Lead {
        id: ReplicaId,
        leadership: Leadership,
    },
    /// The state of a replica has moved on.
    Applied {
        id: ReplicaId,
    },
    Answered {
        number: u64,
        reply: Reply,
    },
}

impl World {
    /// A group without clients and without faults, as part of a larger world.
    pub fn within(settings: Settings, founding: Founding) -> Self {
        let mut world = Self::found(settings, Chance::new(settings.seed ^ 0x6772_6f75_7073), founding);
        world.network.jitter_us = 200;
        world.start_all();
        world.after(0, Happening::Operate);
        world
    }

    /// From now on things go wrong, as the seed has it.
    pub fn foul(&mut self) {
        self.quiet = false;
        self.draw_weather();
        self.spare_memory();
        self.after(0, Happening::Fault);
    }

    /// All heals, and nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.clear_up();
        self.quiet = true;
    }

    /// When something is to happen next.
    pub fn next_us(&self) -> Option<u64> {
        self.queue.next_at()
    }

    /// It is this late in the world around. Nothing may be left to happen before.
    pub fn set_time(&mut self, now_us: u64) {
        self.now_us = self.now_us.max(now_us);
    }

    /// The next thing happens.
    pub fn step(&mut self) {
        if let Some((at, happening)) = self.queue.pop(u64::MAX) {
            self.set_time(at);
            self.happen(happening);
        }
    }

    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Asks a replica from within its process; the answer is [`Told::Answered`], unless the process dies.
    pub fn ask(&mut self, id: ReplicaId, number: u64, request: Request) {
        self.request(id, Asker::Outside, number, request);
    }

    pub fn write(&mut self, id: ReplicaId, number: u64, command: Bytes) {
        self.ask(id, number, Request::Write(command));
    }

    pub fn read(&mut self, id: ReplicaId, number: u64, key: Key) {
        self.ask(id, number, Request::Read(key));
    }

    /// What the process of a replica sees, unless it is dead.
    pub fn look_at<T>(&self, id: ReplicaId, look: impl FnOnce(&Mvcc) -> T) -> Option<T> {
        let core = self.nodes.get(&id)?.core.as_ref()?;
        Some(look(&core.state().read()))
    }

    pub fn is_up(&self, id: ReplicaId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some())
    }

    pub fn is_paused(&self, id: ReplicaId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some() && node.paused)
    }

    /// All whose process runs and that belong to the group.
    pub fn up(&self) -> Vec<ReplicaId> {
        self.nodes.values().filter(|node| node.core.is_some() && node.joined).map(|node| node.id).collect()
    }

    /// All that were ever part of the group and are not gone for good.
    pub fn all(&self) -> Vec<ReplicaId> {
        self.nodes.values().filter(|node| node.gone.is_none()).map(|node| node.id).collect()
    }

    /// What the monotonic clock of a replica's machine shows.
    pub fn clock_ms(&self, id: ReplicaId) -> u64 {
        self.nodes.get(&id).map_or(0, |node| node.clock.now_us(self.now_us) / 1000)
    }

    /// When that clock will show this, if nothing happens to it.
    pub fn when_us(&self, id: ReplicaId, ms: u64) -> u64 {
        self.nodes.get(&id).map_or(self.now_us, |node| node.clock.when(ms * 1000))
    }

    /// How long something takes from one replica to another; nothing while the way is cut.
    pub fn way_us(&mut self, from: ReplicaId, to: ReplicaId) -> Option<u64> {
        if from == to {
            return Some(0);
        }
        let cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        (!cut).then(|| self.network.travel_us(&mut self.chance, from, to).unwrap_or(200_000))
    }

    pub fn kill(&mut self, id: ReplicaId, power: bool) {
        self.crash(id, power);
    }

    pub fn boot(&mut self, id: ReplicaId) {
        self.start(id);
    }

    /// What is not yet as it has to be once nothing goes wrong any more.
    pub fn restless(&self) -> Option<String> {
        self.unrest()
    }

    /// Every replica holds all that was committed.
    pub fn check_states(&mut self) {
        self.check_end();
    }
}
