//! What a plug-in said of each cluster, as a filter and as a score.

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{score::Score, standing::Standing},
    model::{
        placement::Why,
        plugin::{Judgement, Judgements},
    },
};

#[derive(Debug, Clone, Copy)]
pub struct Asked<'p>(pub &'p Judgements);

impl Filter for Asked<'_> {
    fn words(&self) -> &'static [&'static str] {
        &["PluginRefused"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let message = match self.0.get(view.uid) {
            Some(Judgement::Score(_)) => return Verdict::OPEN,
            Some(Judgement::Refused(words)) => words.clone(),
            // It was not there, or not accepted, when the plug-in was asked.
            None => "it was not asked of this cluster".to_owned(),
        };
        Standing::Keeps(Why::PluginRefused { message }).into()
    }
}

impl Score for Asked<'_> {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        match self.0.get(view.uid)? {
            Judgement::Score(score) => Some(*score),
            Judgement::Refused(_) => None,
        }
    }
}
