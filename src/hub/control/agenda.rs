//! Agenda: who is looked at next, and when.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use crate::model::Uid;

/// When an Application is looked at next, and whether its placement is decided anew or only its status told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub at_ms: u64,
    pub decide: bool,
}

/// Every Application that is to be looked at, once. Thousands are at times, so nothing here looks at all of them.
///
/// Those whose time has come wait in the order of their priority, and of those of one priority the longest first.
#[derive(Default)]
pub struct Agenda {
    /// With the priority of those whose time has come.
    due: BTreeMap<Uid, (Due, Option<i32>)>,
    by_time: BTreeSet<(u64, Uid)>,
    ripe: BTreeSet<(Reverse<i32>, u64, Uid)>,
}

impl Agenda {
    /// Not later than this; once it is to be decided anew it stays so.
    pub fn mark(&mut self, application: &Uid, at_ms: u64, decide: bool) {
        let next = match self.get(application) {
            Some(known) => Due { at_ms: known.at_ms.min(at_ms), decide: known.decide || decide },
            None => Due { at_ms, decide },
        };
        self.set(application, next);
    }

    pub fn set(&mut self, application: &Uid, next: Due) {
        if let Some((known, _)) = self.due.get_mut(application)
            && known.at_ms == next.at_ms
        {
            *known = next;
            return;
        }
        self.remove(application);
        self.due.insert(application.clone(), (next, None));
        self.by_time.insert((next.at_ms, application.clone()));
    }

    pub fn remove(&mut self, application: &Uid) {
        match self.due.remove(application) {
            Some((known, None)) => drop(self.by_time.remove(&(known.at_ms, application.clone()))),
            Some((known, Some(priority))) => {
                self.ripe.remove(&(Reverse(priority), known.at_ms, application.clone()));
            }
            None => {}
        }
    }

    pub fn get(&self, application: &Uid) -> Option<Due> {
        self.due.get(application).map(|(due, _)| *due)
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// Lets those whose time has come wait in their order; once for each.
    pub fn ripen(&mut self, now_ms: u64, priority: impl Fn(&Uid) -> i32) {
        while self.by_time.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms)
            && let Some((at_ms, application)) = self.by_time.pop_first()
        {
            let priority = priority(&application);
            if let Some((_, known)) = self.due.get_mut(&application) {
                *known = Some(priority);
            }
            self.ripe.insert((Reverse(priority), at_ms, application));
        }
    }

    /// Those whose time had come when it was looked last, the highest priority first.
    pub fn ripe(&self) -> impl Iterator<Item = (&Uid, Due)> {
        self.ripe.iter().filter_map(|(_, _, application)| Some((application, self.get(application)?)))
    }

    /// When the first of those is due who may be looked at.
    pub fn next_ms(&self, may_be: impl Fn(&Uid) -> bool) -> Option<u64> {
        let ripe = self.ripe.iter().find(|(_, _, application)| may_be(application)).map(|(_, at_ms, _)| *at_ms);
        ripe.or_else(|| self.by_time.iter().find(|(_, application)| may_be(application)).map(|(at_ms, _)| *at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_due_comes_in_the_order_of_priority_and_time() {
        let [web, api, db] = ["web", "api", "db"].map(Uid::from);
        let mut agenda = Agenda::default();
        agenda.mark(&web, 30, true);
        agenda.mark(&api, 20, false);
        agenda.mark(&db, 40, false);
        // Sooner, and still to be decided.
        agenda.mark(&web, 10, false);
        agenda.mark(&web, 50, false);
        let ripe = |agenda: &mut Agenda, now_ms| -> Vec<(String, bool)> {
            agenda.ripen(now_ms, |uid| if uid.0 == "db" { 7 } else { 0 });
            agenda.ripe().map(|(uid, due)| (uid.0.clone(), due.decide)).collect()
        };
        assert_eq!(ripe(&mut agenda, 9), []);
        assert_eq!((agenda.next_ms(|_| true), agenda.next_ms(|uid| *uid != web)), (Some(10), Some(20)));
        assert_eq!(ripe(&mut agenda, 20), [("web".to_owned(), true), ("api".to_owned(), false)]);
        assert_eq!((agenda.next_ms(|_| true), agenda.next_ms(|uid| *uid != web)), (Some(10), Some(20)));
        assert_eq!(ripe(&mut agenda, 40)[0].0, "db", "the latest, and the most important");
        // One that waits stays where it is, and is decided if anybody asks for that.
        agenda.mark(&api, 35, true);
        assert_eq!(ripe(&mut agenda, 40)[2], ("api".to_owned(), true));
        // Later after all.
        agenda.set(&web, Due { at_ms: 60, decide: true });
        assert_eq!((ripe(&mut agenda, 50).len(), agenda.len()), (2, 3));
        agenda.remove(&api);
        agenda.remove(&api);
        agenda.remove(&db);
        assert_eq!((ripe(&mut agenda, 50), agenda.get(&api), agenda.next_ms(|_| true)), (vec![], None, Some(60)));
    }
}
