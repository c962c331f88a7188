//! The network between replicas: every direction of every pair on its own.
//!
//! Messages of consensus may be lost, come twice and overtake each other; calls (a forwarded write, a piece of a snapshot)
//! are lost or arrive once.

use std::collections::BTreeMap;

use crate::{sim::chance::Chance, store::raft::ReplicaId};

#[derive(Debug, Clone, Copy, Default)]
struct Link {
    cut: bool,
    lost_permille: u64,
    slower_us: u64,
}

#[derive(Debug, Default)]
pub struct Network {
    /// Those that differ from an ordinary one.
    links: BTreeMap<(ReplicaId, ReplicaId), Link>,
    /// Of all links: a little of everything.
    pub lost_permille: u64,
    pub repeated_permille: u64,
    pub jitter_us: u64,
}

impl Network {
    pub fn cut(&mut self, from: ReplicaId, to: ReplicaId) {
        self.links.entry((from, to)).or_default().cut = true;
    }

    pub fn lose(&mut self, from: ReplicaId, to: ReplicaId, permille: u64) {
        self.links.entry((from, to)).or_default().lost_permille = permille;
    }

    pub fn slow_down(&mut self, from: ReplicaId, to: ReplicaId, us: u64) {
        self.links.entry((from, to)).or_default().slower_us = us;
    }

    pub fn heal(&mut self) {
        self.links.clear();
    }

    pub fn is_cut(&self, from: ReplicaId, to: ReplicaId) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| link.cut)
    }

    /// How long it takes from one to the other; nothing where it is lost.
    pub fn travel_us(&self, chance: &mut Chance, from: ReplicaId, to: ReplicaId) -> Option<u64> {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        let lost = link.cut || chance.happens(self.lost_permille.max(link.lost_permille));
        (!lost).then(|| chance.between(50, 250 + self.jitter_us) + link.slower_us)
    }

    pub fn repeats(&self, chance: &mut Chance) -> bool {
        self.repeated_permille > 0 && chance.happens(self.repeated_permille)
    }
}
