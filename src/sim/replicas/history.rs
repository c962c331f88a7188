//! The history of one key, looked at as a puzzle: is there an order in which all that clients saw could have happened one at
//! a time? Told by a library that knows nothing of replicas or revisions in between.

use std::collections::BTreeMap;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::{
    answers::{Answers, Kind, Moment},
    shell::Reply,
};
use crate::store::{Outcome, Revision};

/// A key that is written, swapped and deleted: when it was last written, and by whom it is held now.
#[derive(Debug, Clone, Default)]
struct Register {
    newest: Revision,
    /// When what it holds was written; 0 where it holds nothing.
    held: Revision,
}

/// What a client did, with what it was told of it.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Read {
        held: Revision,
    },
    Put {
        at: Revision,
    },
    Swap {
        expected: Revision,
        at: Revision,
    },
    Conflict {
        expected: Revision,
        held: Revision,
    },
    Delete {
        at: Revision,
    },
    /// There was nothing to delete.
    Nothing,
}

impl SequentialSpec for Register {
    type Op = Step;
    /// Whether it could have happened then.
    type Ret = bool;

    fn invoke(&mut self, step: &Step) -> bool {
        let (possible, held) = match *step {
            Step::Read { held } => (self.held == held, None),
            Step::Put { at } => (at > self.newest, Some(at)),
            Step::Swap { expected, at } => (at > self.newest && self.held == expected, Some(at)),
            Step::Conflict { expected, held } => (self.held == held && held != expected, None),
            Step::Delete { at } => (at > self.newest && self.held != 0, Some(0)),
            Step::Nothing => (self.held == 0, None),
        };
        if let Step::Put { at } | Step::Swap { at, .. } | Step::Delete { at } = *step {
            self.newest = at;
        }
        self.held = held.unwrap_or(self.held);
        possible
    }
}

/// Where the puzzle has more pieces, the rest is left out: trying all orders takes its time.
const STEPS_MAX: usize = 28;

/// What is wrong with the history of the key that was witnessed.
pub fn impossible(answers: &Answers) -> Option<String> {
    let told: BTreeMap<u64, &Reply> = answers
        .moments
        .iter()
        .filter_map(|moment| match moment {
            Moment::Told { number, reply } => Some((*number, reply)),
            Moment::Asked { .. } => None,
        })
        .collect();
    let mut tester = LinearizabilityTester::new(Register::default());
    let mut lives: BTreeMap<usize, u64> = BTreeMap::new();
    let mut threads = BTreeMap::new();
    for moment in answers.moments.iter().take(2 * STEPS_MAX) {
        let wrong = match moment {
            Moment::Asked { number, client, kind } => {
                let reply = told.get(number).copied();
                // Nobody knows whether it happened: the history ends here.
                if *kind == Kind::Delete && matches!(reply, None | Some(Reply::Wrote(Outcome::Unknown))) {
                    break;
                }
                let Some(step) = step(answers, *number, *kind, reply) else { continue };
                let thread = (*client, *lives.entry(*client).or_default());
                threads.insert(*number, thread);
                // Who never hears an answer goes on as somebody else.
                if reply.is_none() {
                    lives.insert(*client, *number);
                }
                tester.on_invoke(thread, step).err()
            }
            Moment::Told { number, reply } => match threads.remove(number) {
                Some((client, _)) if *reply == Reply::Wrote(Outcome::Unknown) => {
                    lives.insert(client, *number);
                    None
                }
                Some(thread) => tester.on_return(thread, true).err(),
                None => None,
            },
        };
        if wrong.is_some() {
            return wrong;
        }
    }
    (!tester.is_consistent()).then(|| format!("no order explains the history of one key: {:?}", answers.moments))
}

/// Nothing where it never happened.
fn step(answers: &Answers, number: u64, kind: Kind, reply: Option<&Reply>) -> Option<Step> {
    let written = answers.written(number);
    match (kind, reply) {
        (Kind::Read, Some(Reply::Read(_, entry))) => {
            Some(Step::Read { held: entry.as_ref().map_or(0, |entry| entry.modified) })
        }
        (Kind::Put, _) => written.map(|at| Step::Put { at }),
        (Kind::Swap { expected }, Some(Reply::Wrote(Outcome::Conflict(current)))) => {
            let held = current.first().and_then(Option::as_ref).map_or(0, |entry| entry.modified);
            Some(Step::Conflict { expected, held })
        }
        (Kind::Swap { expected }, _) => written.map(|at| Step::Swap { expected, at }),
        (Kind::Delete, Some(Reply::Wrote(Outcome::Committed(revision)))) => {
            Some(if answers.claimed(*revision) == Some(number) {
                Step::Delete { at: *revision }
            } else {
                Step::Nothing
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_possible(steps: &[(u64, Step, bool)]) -> bool {
        let mut tester = LinearizabilityTester::new(Register::default());
        for (thread, step, over) in steps {
            let done = match over {
                true => tester.on_return(*thread, true),
                false => tester.on_invoke(*thread, step.clone()),
            };
            done.expect("a sound history");
        }
        tester.is_consistent()
    }

    #[test]
    fn a_read_that_misses_what_was_written_before_is_impossible() {
        let (put, read) = (Step::Put { at: 1 }, |held| Step::Read { held });
        let sequence =
            |held| [(1, put.clone(), false), (1, put.clone(), true), (2, read(held), false), (2, read(held), true)];
        assert!(is_possible(&sequence(1)));
        assert!(!is_possible(&sequence(0)));
        let at_once = [(1, put.clone(), false), (2, read(0), false), (1, put.clone(), true), (2, read(0), true)];
        assert!(is_possible(&at_once), "they may have met");
    }
}
