//! The story of a seed: faults, then peace, then everything must be well.

use bytes::Bytes;

use super::{Happening, Settings, World};
use crate::store::{
    Entry, Key, Transaction,
    command::Command,
    raft::{ReplicaId, Role, core::Event},
};

/// How long faults last, the peace in which clients go on, and how long a healed group may take to come to rest.
const FAULTS_US: (u64, u64) = (500_000, 1_800_000);
const PEACE_US: u64 = 200_000;
const REST_US: u64 = 45_000_000;
const LOOK_US: u64 = 50_000;

impl World {
    /// Tells the story of a seed to its end, or to the first thing that is wrong.
    pub fn tell_story(settings: Settings) -> Self {
        let mut world = Self::new(settings);
        for _ in 0..world.chance.between(2, 5) {
            world.add_client();
        }
        world.after(100_000, Happening::Fault);
        world.after(0, Happening::Operate);
        let until_us = world.chance.between(FAULTS_US.0, FAULTS_US.1);
        world.run_until(until_us);
        world.clear_up();
        world.run_until(until_us + PEACE_US);
        world.quiet = true;
        let latest_us = world.now_us + REST_US;
        while world.check.violations.is_empty()
            && let Some(why) = world.unrest()
        {
            if world.now_us >= latest_us {
                world.check.violate(world.now_us, format!("the healed group does not come to rest: {why}"));
                break;
            }
            world.nudge();
            world.run_until(world.now_us + LOOK_US);
        }
        if world.check.violations.is_empty() {
            world.check_end();
        }
        world
    }

    /// States are compared while anything is written.
    fn nudge(&mut self) {
        if self.check.differing.is_some()
            && let Some(leader) = self.leader()
        {
            let transaction = Transaction::put(Key::new("/nudge"), Bytes::new());
            let command = Command::Commit(transaction).encode().into();
            self.tell(leader, Event::Propose { id: u64::MAX, command });
        }
    }

    /// What is not yet as it has to be once nothing goes wrong any more.
    pub(super) fn unrest(&self) -> Option<String> {
        let leader = match self.leader() {
            Some(leader) => leader,
            None => return Some("nobody leads".into()),
        };
        let status = self.nodes[&leader].core.as_ref()?.status();
        if status.members.len() != self.target {
            return Some(format!("{} members of {}", status.members.len(), self.target));
        }
        if let Some(id) = self.check.differing {
            return Some(format!("replica {id} has another state and goes on"));
        }
        for (id, member) in &status.members {
            let Some(node) = self.nodes.get(id) else { return Some(format!("no replica {id}")) };
            let Some(core) = &node.core else { return Some(format!("replica {id} does not run: {:?}", node.gone)) };
            let theirs = core.status();
            if member.learner || matches!(theirs.role, Role::Learner | Role::Candidate) {
                return Some(format!("replica {id} is {:?}", theirs.role));
            }
            if theirs.applied != self.check.last() || theirs.members.len() != self.target {
                return Some(format!("replica {id} is at {} of {}", theirs.applied, self.check.last()));
            }
        }
        None
    }

    /// Every replica holds all that was committed, whether or not anybody was told.
    pub(super) fn check_end(&mut self) {
        let expected: Vec<Entry> = self.check.state().entries().collect();
        let running: Vec<ReplicaId> =
            self.nodes.values().filter(|node| node.core.is_some() && node.gone.is_none()).map(|node| node.id).collect();
        for id in running {
            let Some(core) = &self.nodes[&id].core else { continue };
            if self.check.members().contains_key(&id) && core.state().read().entries().ne(expected.iter().cloned()) {
                self.check.violate(self.now_us, format!("replica {id} lacks something in the end"));
            }
        }
    }
}
