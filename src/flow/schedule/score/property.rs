//! A number that clusters say of themselves, on a scale that a profile sets.

use super::{Score, View, preferred::number};

#[derive(Debug)]
pub struct InRange {
    pub property: String,
    /// Gives 0.
    pub worst: i64,
    /// Gives 100.
    pub best: i64,
}

impl Score for InRange {
    fn of(&self, view: &View<'_>) -> Option<i64> {
        let (worst, best) = (i128::from(self.worst), i128::from(self.best));
        let value = i128::from(number(view.cluster, &self.property)?);
        let share = ((value - worst) * 100).checked_div(best - worst)?;
        Some(share.clamp(0, 100) as i64)
    }
}
