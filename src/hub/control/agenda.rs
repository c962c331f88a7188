//! Agenda: who is looked at next, and when.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Uid;

/// When an Application is looked at next, and whether its placement is decided anew or only its status told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub at_ms: u64,
    pub decide: bool,
}

/// Every Application that is to be looked at, once. Thousands are at times, so nothing here looks at all of them.
#[derive(Default)]
pub struct Agenda {
    due: BTreeMap<Uid, Due>,
    by_time: BTreeSet<(u64, Uid)>,
}

impl Agenda {
    /// Not later than this; once it is to be decided anew it stays so.
    pub fn mark(&mut self, application: &Uid, at_ms: u64, decide: bool) {
        let next = match self.due.get(application) {
            Some(known) => Due { at_ms: known.at_ms.min(at_ms), decide: known.decide || decide },
            None => Due { at_ms, decide },
        };
        self.set(application, next);
    }

    pub fn set(&mut self, application: &Uid, next: Due) {
        match self.due.insert(application.clone(), next) {
            Some(known) if known.at_ms == next.at_ms => return,
            Some(known) => drop(self.by_time.remove(&(known.at_ms, application.clone()))),
            None => {}
        }
        self.by_time.insert((next.at_ms, application.clone()));
    }

    pub fn remove(&mut self, application: &Uid) {
        if let Some(known) = self.due.remove(application) {
            self.by_time.remove(&(known.at_ms, application.clone()));
        }
    }

    pub fn get(&self, application: &Uid) -> Option<Due> {
        self.due.get(application).copied()
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Those who are due by now, the longest first.
    pub fn ripe(&self, now_ms: u64) -> impl Iterator<Item = (&Uid, Due)> {
        let ripe = self.by_time.iter().take_while(move |(at_ms, _)| *at_ms <= now_ms);
        ripe.filter_map(|(_, application)| Some((application, self.get(application)?)))
    }

    /// When the first of those is due who may be looked at.
    pub fn next_ms(&self, may_be: impl Fn(&Uid) -> bool) -> Option<u64> {
        self.by_time.iter().find(|(_, application)| may_be(application)).map(|(at_ms, _)| *at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_due_comes_in_the_order_of_time() {
        let [web, api, db] = ["web", "api", "db"].map(Uid::from);
        let mut agenda = Agenda::default();
        agenda.mark(&web, 30, true);
        agenda.mark(&api, 20, false);
        agenda.mark(&db, 40, false);
        // Sooner, and still to be decided.
        agenda.mark(&web, 10, false);
        agenda.mark(&web, 50, false);
        let ripe = |agenda: &Agenda, now_ms| -> Vec<(String, bool)> {
            agenda.ripe(now_ms).map(|(uid, due)| (uid.0.clone(), due.decide)).collect()
        };
        assert_eq!(ripe(&agenda, 9), []);
        assert_eq!(ripe(&agenda, 20), [("web".to_owned(), true), ("api".to_owned(), false)]);
        assert_eq!((agenda.next_ms(|_| true), agenda.next_ms(|uid| *uid != web)), (Some(10), Some(20)));
        // Later after all.
        agenda.set(&web, Due { at_ms: 60, decide: true });
        assert_eq!((agenda.next_ms(|_| true), agenda.len()), (Some(20), 3));
        agenda.remove(&api);
        agenda.remove(&api);
        assert_eq!((ripe(&agenda, 60).len(), agenda.get(&api)), (2, None));
    }
}
