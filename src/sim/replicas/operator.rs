//! Whoever runs the group: replaces replicas that are gone, and changes how many there are.
//!
//! A replica that lost or distrusts its disk never comes back under its old id: it is removed, and an empty one takes its
//! place under a new one.

use super::{
    Happening, World,
    disk::Disk,
    node::{Clock, Node},
};
use crate::store::raft::{Change, ReplicaId};

const INTERVAL_US: u64 = 80_000;

impl World {
    pub(super) fn operate(&mut self) {
        self.after(INTERVAL_US * self.tempo, Happening::Operate);
        self.tidy_up();
        let Some(leader) = self.leader() else { return };
        let Some(core) = &self.nodes[&leader].core else { return };
        let members = core.status().members;
        for id in members.keys() {
            if let Some(node) = self.nodes.get_mut(id) {
                node.joined = true;
            }
        }
        let gone = |id: &&ReplicaId| self.nodes.get(id).is_none_or(|node| node.gone.is_some());
        if let Some(id) = members.keys().find(gone).copied() {
            return self.change(leader, Change::Remove(id));
        }
        if members.len() < self.target {
            let spare = self.nodes.values().find(|node| !node.joined && node.gone.is_none()).map(|node| node.id);
            let id = spare.unwrap_or_else(|| self.add_empty());
            self.start(id);
            self.change(leader, Change::Add(id));
        } else if members.len() > self.target && members.iter().all(|(id, member)| !member.learner && self.is_well(*id))
        {
            let ids: Vec<_> = members.into_keys().collect();
            if let Some(id) = self.chance.pick(&ids).copied() {
                self.change(leader, Change::Remove(id));
            }
        }
    }

    fn is_well(&self, id: ReplicaId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.core.is_some() && !node.disk.is_rotten())
    }

    /// A replica that decides, if there is one.
    pub(super) fn leader(&self) -> Option<ReplicaId> {
        let leads = self.nodes.values().filter_map(|node| {
            let leadership = node.core.as_ref().filter(|_| !node.paused)?.leadership();
            leadership.here.then_some((leadership.term, node.id))
        });
        leads.max().map(|(_, id)| id)
    }

    fn add_empty(&mut self) -> ReplicaId {
        let id = self.next_id;
        self.next_id += 1;
        let clock = Clock::new(self.chance.between(0, 1 << 30));
        self.nodes.insert(id, Node::new(id, Disk::default(), clock));
        self.trace.line(self.now_us, format_args!("{id} is new"));
        id
    }

    /// What was removed and never learned of it is switched off, sooner or later.
    fn tidy_up(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(core) = &self.nodes[&leader].core else { return };
        let members = core.status().members;
        let removed = |node: &&Node| node.joined && node.gone.is_none() && !members.contains_key(&node.id);
        let removed: Vec<_> = self.nodes.values().filter(removed).map(|node| node.id).collect();
        for id in removed {
            // A leader that was cut off may not know of the newest members yet.
            let newest = !self.check.members().contains_key(&id);
            if newest && (self.quiet || self.chance.happens(100)) {
                self.crash(id, true);
                if let Some(node) = self.node(id) {
                    node.gone = Some("removed".into());
                }
            }
        }
    }

    /// Whether one more replica may lose its disk: all voters agree on who votes, and would after a power cut; nothing
    /// is being changed; and the disks of all the others are sound.
    pub(super) fn may_lose(&self, id: ReplicaId) -> bool {
        let members = self.check.members();
        let lost = |id: &ReplicaId| self.nodes.get(id).is_none_or(|node| node.gone.is_some() || node.disk.is_rotten());
        let remembers =
            |id: &ReplicaId| self.nodes.get(id).is_some_and(|node| node.disk.committed() >= self.check.last_change());
        let settled = members.len() >= 3 && members.values().all(|learner| !learner);
        settled
            && members.contains_key(&id)
            && self.check.differing.is_none()
            && members.keys().all(|member| !lost(member) && self.check.agrees(*member) && remembers(member))
    }
}
