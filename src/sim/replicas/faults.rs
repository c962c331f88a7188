//! What goes wrong, and for how long.

use super::{Happening, World, disk::Disk, network::Network, plant::Plant};
use crate::store::{
    Entry, Key,
    mvcc::Mvcc,
    raft::{
        ReplicaId,
        core::{Event, Reads},
    },
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    CutOneWay,
    CutBothWays,
    Isolate,
    Split,
    Lossy,
    Slow,
    HealNetwork,
    Pause,
    PowerCut,
    Kill,
    PowerCutAll,
    Storm,
    SlowDisk,
    FullDisk,
    Rot,
    LoseDisk,
    ClockRate,
    ClockJump,
    HandOver,
    Resize,
    /// A bit flips in the memory of a replica that follows.
    Differ,
}

/// A replica with a wrong state may spread it until it is found out, so that goes wrong alone.
const ALL: [Fault; 20] = [
    Fault::CutOneWay,
    Fault::CutBothWays,
    Fault::Isolate,
    Fault::Split,
    Fault::Lossy,
    Fault::Slow,
    Fault::HealNetwork,
    Fault::Pause,
    Fault::PowerCut,
    Fault::Kill,
    Fault::PowerCutAll,
    Fault::Storm,
    Fault::SlowDisk,
    Fault::FullDisk,
    Fault::Rot,
    Fault::LoseDisk,
    Fault::ClockRate,
    Fault::ClockJump,
    Fault::HandOver,
    Fault::Resize,
];

impl Fault {
    /// A lease trusts the speed of clocks, and that they go on evenly.
    fn is_bearable(self, reads: Reads) -> bool {
        reads == Reads::Index || !matches!(self, Self::ClockRate | Self::ClockJump)
    }
}

/// What this world is like: chosen once, so that some worlds meet few kinds of fault often and others many seldom.
#[derive(Debug, Default)]
pub struct Weather {
    pub busy_permille: u64,
    pub replies_lost_permille: u64,
    pub mangled_permille: u64,
    pub think_us: u64,
    pub reads_permille: u64,
    faults: Vec<Fault>,
    pace_us: u64,
}

impl Weather {
    pub fn is_foul(&self) -> bool {
        self.pace_us > 0
    }
}

impl World {
    pub(super) fn draw_weather(&mut self) {
        let chance = &mut self.chance;
        let some = |chance: &mut crate::sim::chance::Chance, permille, most| {
            if chance.happens(permille) { chance.between(1, most) } else { 0 }
        };
        let kinds = *chance.pick(&[150, 300, 600, 1000]).unwrap_or(&300);
        self.weather = Weather {
            busy_permille: some(chance, 500, 200),
            replies_lost_permille: some(chance, 500, 60),
            mangled_permille: some(chance, 300, 200),
            reads_permille: *chance.pick(&[200, 400, 800]).unwrap_or(&400),
            think_us: *chance.pick(&[20_000, 60_000, 150_000]).unwrap_or(&60_000),
            faults: ALL.into_iter().filter(|fault| chance.happens(kinds) && fault.is_bearable(self.reads)).collect(),
            pace_us: *chance.pick(&[60_000, 150_000, 400_000]).unwrap_or(&150_000),
        };
        self.network.lost_permille = some(chance, 500, 60);
        self.network.repeated_permille = some(chance, 500, 60);
        self.network.jitter_us = *chance.pick(&[100, 1_000, 10_000]).unwrap_or(&100);
        if self.settings.plant == Some(Plant::LeaseUnderDrift) {
            self.weather.faults = vec![Fault::Isolate];
            self.weather.reads_permille = 800;
        }
        if chance.happens(30) {
            self.weather.faults = vec![Fault::Differ];
            self.network = Network::default();
        }
    }

    /// What a replica serves while its state differs is wrong: nobody outside can be asked to bear with that.
    pub(super) fn spare_memory(&mut self) {
        self.weather.faults.retain(|fault| *fault != Fault::Differ);
    }

    /// All heals, and nothing goes wrong any more.
    pub(super) fn clear_up(&mut self) {
        self.weather = Weather {
            think_us: self.weather.think_us,
            reads_permille: self.weather.reads_permille,
            busy_permille: self.weather.busy_permille,
            ..Weather::default()
        };
        (self.network.lost_permille, self.network.repeated_permille, self.network.jitter_us) = (0, 0, 200);
        self.network.heal();
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            if let Some(node) = self.nodes.get_mut(&id) {
                (node.disk.slow, node.disk.full) = (false, false);
                node.clock.set_rate(self.now_us, 1000);
            }
            self.resume(id);
            self.start(id);
        }
    }

    pub(super) fn fault(&mut self) {
        if !self.weather.is_foul() {
            return;
        }
        let pause_us = self.chance.between(1_000, self.weather.pace_us) * self.tempo;
        self.after(pause_us, Happening::Fault);
        let ids: Vec<_> = self.nodes.values().filter(|node| node.gone.is_none()).map(|node| node.id).collect();
        let Some(fault) = self.chance.pick(&self.weather.faults).copied() else { return };
        let (Some(one), Some(other)) = (self.chance.pick(&ids).copied(), self.chance.pick(&ids).copied()) else {
            return;
        };
        // Whoever leads is where faults hurt.
        let one = self.leader().filter(|_| self.chance.happens(400)).unwrap_or(one);
        self.strike(fault, one, other, &ids);
    }

    fn strike(&mut self, fault: Fault, one: ReplicaId, other: ReplicaId, ids: &[ReplicaId]) {
        self.trace.line(self.now_us, format_args!("fault: {fault:?} {one} {other}"));
        let short_us = self.chance.between(5_000, 150_000) * self.tempo;
        let long_us = self.chance.between(50_000, 900_000) * self.tempo;
        match fault {
            Fault::CutOneWay => self.network.cut(one, other),
            Fault::CutBothWays => self.cut_off(&[one], &[other]),
            Fault::Isolate => self.cut_off(&[one], ids),
            Fault::Split => {
                let middle = self.chance.between(0, ids.len() as u64) as usize;
                let (left, right) = ids.split_at(middle);
                self.cut_off(left, right);
            }
            Fault::Lossy => self.network.lose(one, other, 400),
            Fault::Slow => self.network.slow_down(one, other, short_us),
            Fault::HealNetwork => return self.network.heal(),
            Fault::Pause => {
                self.pause(one);
                return self.after(long_us, Happening::Resume { id: one });
            }
            Fault::PowerCut | Fault::Kill => return self.crash_for(one, fault == Fault::PowerCut, long_us),
            Fault::PowerCutAll => return ids.iter().for_each(|id| self.crash_for(*id, true, short_us)),
            Fault::Storm => {
                for n in 0..6 {
                    self.after(n * short_us, Happening::Crash { id: one, power: n % 2 == 0, back_us: short_us / 2 });
                }
                return;
            }
            Fault::SlowDisk | Fault::FullDisk => {
                let Some(node) = self.node(one) else { return };
                match fault {
                    Fault::SlowDisk => node.disk.slow = true,
                    _ => node.disk.full = true,
                }
                return self.after(long_us, Happening::DiskWell { id: one });
            }
            Fault::Rot if self.may_lose(one) => {
                let chance = &mut self.chance;
                if self.nodes.get_mut(&one).is_some_and(|node| node.disk.rot(chance)) {
                    self.crash_for(one, false, short_us);
                }
                return;
            }
            Fault::LoseDisk if self.may_lose(one) => {
                self.crash(one, true);
                let Some(node) = self.node(one) else { return };
                node.disk = Disk::default();
                node.gone = Some("lost".into());
                let life = node.life;
                return self.after(short_us, Happening::Restart { id: one, life });
            }
            Fault::Rot | Fault::LoseDisk => return,
            Fault::ClockRate => {
                let (now_us, permille) = (self.now_us, self.chance.between(700, 1400));
                if let Some(node) = self.node(one) {
                    node.clock.set_rate(now_us, permille);
                }
                return;
            }
            Fault::ClockJump => {
                let us = self.chance.between(0, 2_000_000) as i64 - 500_000;
                if let Some(node) = self.node(one) {
                    node.clock.jump(us);
                }
                return;
            }
            Fault::HandOver => return self.tell(one, Event::HandOver),
            Fault::Resize => {
                self.target = self.chance.pick(&[1, 3, 3, 5]).copied().unwrap_or(3);
                return;
            }
            Fault::Differ => return self.differ(one),
        }
        self.after(long_us, Happening::HealNetwork);
    }

    fn cut_off(&mut self, left: &[ReplicaId], right: &[ReplicaId]) {
        for a in left {
            for b in right.iter().filter(|b| *b != a) {
                self.network.cut(*a, *b);
                self.network.cut(*b, *a);
            }
        }
    }

    pub(super) fn crash_for(&mut self, id: ReplicaId, power: bool, us: u64) {
        self.crash(id, power);
        if let Some(node) = self.nodes.get(&id) {
            let life = node.life;
            self.after(us, Happening::Restart { id, life });
        }
    }

    /// The state of a replica changes behind its back. It has to notice, stop, and be replaced.
    fn differ(&mut self, id: ReplicaId) {
        let leads = self.leader() == Some(id);
        if leads || self.check.differing.is_some() || !self.may_lose(id) {
            return;
        }
        let Some(core) = self.nodes.get(&id).and_then(|node| node.core.as_ref()) else { return };
        let mut state = core.state().write();
        let odd = Entry { key: Key::new("/odd"), value: "bit".into(), created: 0, modified: 0 };
        let entries: Vec<_> = state.entries().chain([odd]).collect();
        *state = Mvcc::restore(state.revision(), entries);
        self.check.differing = Some(id);
    }
}
