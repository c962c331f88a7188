//! Columns: values that are derived of a fleet and kept, and the log of changes by which they are brought up to date.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::fleet::Id;

/// Columns of one kind that are kept at once; the one not asked for longest goes first.
const COLUMNS_MAX: usize = 256;

/// Ids in the order in which they changed, as far back as is worth it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    ids: VecDeque<Id>,
    bound: usize,
    /// How many were noted in all.
    pub end: u64,
}

impl Log {
    pub fn bounded(bound: usize) -> Self {
        Self { bound, ..Self::default() }
    }

    pub fn note(&mut self, id: Id) {
        if self.ids.len() >= self.bound {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
        self.end += 1;
    }

    /// Visits what was noted since; false where that is no longer known.
    pub fn since(&self, since: u64, mut visit: impl FnMut(Id)) -> bool {
        let news = (self.end - since) as usize;
        if news > self.ids.len() {
            return false;
        }
        let mut fresh: Vec<Id> = self.ids.range(self.ids.len() - news..).copied().collect();
        fresh.sort_unstable();
        fresh.dedup();
        fresh.into_iter().for_each(&mut visit);
        true
    }
}

/// Columns by what they are of.
#[derive(Debug, Clone)]
pub struct Columns<K, T> {
    kept: BTreeMap<K, Column<T>>,
    asked: u64,
}

#[derive(Debug, Clone)]
struct Column<T> {
    content: Arc<T>,
    as_of: u64,
    asked: u64,
}

impl<K, T> Default for Columns<K, T> {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), asked: 0 }
    }
}

impl<K: Ord + Clone, T: Clone> Columns<K, T> {
    pub fn peek<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        self.kept.get(key).map(|column| &*column.content)
    }

    pub fn forget<Q: Ord + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.kept.remove(key);
    }

    /// The column as of `end`: what is kept brought up to date, or made anew. `refresh` says whether it could.
    pub fn get<Q: Ord + ToOwned<Owned = K> + ?Sized>(
        &mut self,
        key: &Q,
        end: u64,
        make: impl FnOnce() -> T,
        refresh: impl FnOnce(&mut T, u64) -> bool,
    ) -> Arc<T>
    where
        K: Borrow<Q>,
    {
        self.asked += 1;
        if let Some(column) = self.kept.get_mut(key) {
            column.asked = self.asked;
            if column.as_of < end && !refresh(Arc::make_mut(&mut column.content), column.as_of) {
                column.content = Arc::new(make());
            }
            column.as_of = end;
            return column.content.clone();
        }
        if self.kept.len() >= COLUMNS_MAX
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, column)| column.asked).map(|(key, _)| key.clone())
        {
            self.kept.remove(oldest.borrow());
        }
        let content = Arc::new(make());
        self.kept.insert(key.to_owned(), Column { content: content.clone(), as_of: end, asked: self.asked });
        content
    }
}
