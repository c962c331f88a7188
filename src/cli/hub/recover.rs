//! `hanse hub recover`: what is left when most replicas are lost for good. It works on the directory of one that is not
//! running, and says what that may cost before it does anything.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::Context;

use crate::{
    hub::peers::members::{self, Belonging},
    store::raft::{Forced, force_new, inspect},
};

#[derive(clap::Args)]
pub struct Recover {
    /// Do it: this replica becomes the only one of a new group
    #[arg(long)]
    force_new: bool,

    /// The directory of the replica, which must not be running
    #[arg(long, value_name = "DIR", env = "HANSE_DIR")]
    dir: PathBuf,
}

impl Recover {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let belonging = Belonging::read(&self.dir)?;
        let belonging = belonging.with_context(|| format!("{} is the directory of no replica", self.dir.display()))?;
        let store = self.dir.join("store");
        let found = inspect(&store)?;
        eprintln!("{}", warning(&found));
        if !self.force_new {
            eprintln!(
                "\nNothing was changed. To go on alone with what is here: hanse hub recover --force-new --dir DIR"
            );
            return Ok(ExitCode::FAILURE);
        }
        let forced = force_new(&store, members::next_id)?;
        let own = belonging.members.get(&belonging.replica).cloned();
        let members: BTreeMap<_, _> = own.map(|address| (forced.new, address)).into_iter().collect();
        let (replica, incarnation) = (forced.new, forced.incarnation.clone());
        Belonging { replica, incarnation, members, opened: true, ..belonging }.write(&self.dir)?;
        println!(
            "replica {} is replica {} now, the only one of a new group, at revision {}",
            forced.old, forced.new, forced.revision
        );
        println!("start it as before: hanse hub --dir {} …", self.dir.display());
        println!("never start the others again: join new ones, with empty directories (hanse hub invite)");
        Ok(ExitCode::SUCCESS)
    }
}

fn warning(found: &Forced) -> String {
    let others: Vec<String> =
        found.voters.iter().filter(|id| **id != found.old).map(|id| format!("replica {id}")).collect();
    let others = if others.is_empty() { "no other replica".to_owned() } else { others.join(", ") };
    format!(
        "replica {} holds the log up to entry {} (term {}, revision {}); entries up to {} are known to be committed.\n\
         Of what the group acknowledged after entry {}, nothing is here: it would be lost. What is in this log and was never \
         acknowledged would count.\n\
         With a vote as far as is known here: {others}. If any of them can still be started, start it instead: where most of \
         them answer, nothing is lost.\n\
         Agents notice a new life of the hub: they change nothing until an admin's Adoption names the old one.",
        found.old, found.index, found.term, found.revision, found.committed, found.index
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_lost_is_said_with_its_numbers() {
        let found = Forced {
            old: 2,
            new: 4,
            incarnation: "life".into(),
            index: 90,
            term: 7,
            committed: 88,
            revision: 40,
            voters: vec![1, 2, 3],
        };
        let text = warning(&found);
        for part in ["entry 90", "term 7", "up to 88", "revision 40", "replica 1, replica 3", "lost"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("replica 2,"), "{text}");
    }
}
