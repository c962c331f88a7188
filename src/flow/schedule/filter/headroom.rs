//! A share of every cluster that a profile keeps free: for bursts, and for what another cluster loses.

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{score::free_share, standing::Standing},
    model::{
        placement::Why,
        quantity::{CPU, MEMORY},
    },
};

#[derive(Debug)]
pub struct Headroom {
    /// Of CPU and of memory, in hundredths.
    pub percent: u32,
}

impl Filter for Headroom {
    fn words(&self) -> &'static [&'static str] {
        &["NoHeadroom"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        // A cluster of unknown size is refused by those who count on its room.
        let Some(room) = &view.cluster.room else { return Verdict::OPEN };
        let short = [CPU, MEMORY].into_iter().find_map(|resource| {
            let free = free_share(room, resource)?;
            (free < i64::from(self.percent)).then_some((resource, free))
        });
        short.map_or(Verdict::OPEN, |(resource, free)| {
            let why = Why::NoHeadroom { resource: resource.to_owned(), free, percent: self.percent };
            Standing::Keeps(why).into()
        })
    }

    fn reads_room(&self) -> bool {
        true
    }
}
