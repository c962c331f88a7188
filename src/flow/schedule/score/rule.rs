//! A profile's own score: CEL that gives a number. Where it gives none, the cluster gets nothing new, and says so: as a
//! filter this very value refuses it.

use super::{Score, View};
use crate::{
    flow::schedule::{
        expression::Expression,
        filter::{Filter, Verdict},
        standing::Standing,
    },
    model::{placement::Why, profile::SCORE_MAX},
};

#[derive(Debug)]
pub struct Worth(pub Expression);

impl Worth {
    fn number(&self, view: &View<'_>) -> Result<i64, String> {
        let number = self.0.number(view.cluster)?;
        match (-SCORE_MAX..=SCORE_MAX).contains(&number) {
            true => Ok(number),
            false => Err(format!("{number} is not between -{SCORE_MAX} and {SCORE_MAX}")),
        }
    }
}

impl Score for Worth {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        self.number(view).ok()
    }

    fn reads_room(&self) -> bool {
        self.0.reads_room()
    }
}

impl Filter for Worth {
    fn words(&self) -> &'static [&'static str] {
        &["RuleFailed"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let failed = |detail| Standing::Keeps(Why::RuleFailed { expression: self.0.text().to_owned(), detail }).into();
        self.number(view).map_or_else(failed, |_| Verdict::OPEN)
    }

    fn reads_room(&self) -> bool {
        self.0.reads_room()
    }
}
