//! A profile's own rule: CEL that holds for clusters that may get something new. What runs stays, whatever a rule says of
//! it: a platform's edit is no order to move a fleet.

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{expression::Expression, standing::Standing},
    model::placement::Why,
};

#[derive(Debug)]
pub struct Rule {
    pub expression: Expression,
    /// What people are told where it does not hold.
    pub message: String,
}

impl Filter for Rule {
    fn words(&self) -> &'static [&'static str] {
        &["RuleFalse", "RuleFailed"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let why = match self.expression.holds(view.cluster) {
            Ok(true) => return Verdict::OPEN,
            Ok(false) => Why::RuleFalse { message: self.message.clone() },
            Err(detail) => Why::RuleFailed { expression: self.expression.text().to_owned(), detail },
        };
        Standing::Keeps(why).into()
    }

    fn reads_room(&self) -> bool {
        self.expression.reads_room()
    }
}
