//! Whether anybody knows how much fits, for components that count on it.

use super::{Filter, Verdict, View};
use crate::{flow::schedule::standing::Standing, model::placement::Why};

#[derive(Debug)]
pub struct Sketched;

impl Filter for Sketched {
    fn words(&self) -> &'static [&'static str] {
        &["NoSketch"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        match view.cluster.room {
            Some(_) => Verdict::OPEN,
            None => Standing::Keeps(Why::NoSketch).into(),
        }
    }
}
