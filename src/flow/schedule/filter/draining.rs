//! Whether the cluster is being drained. Nobody can tolerate that, or switch it off.

use super::{Filter, Verdict, View};
use crate::{flow::schedule::standing::Standing, model::placement::Why};

#[derive(Debug)]
pub struct Draining;

impl Filter for Draining {
    fn words(&self) -> &'static [&'static str] {
        &["Draining"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        match view.cluster.draining {
            true => Standing::Leaves(Why::Draining).into(),
            false => Verdict::OPEN,
        }
    }
}
