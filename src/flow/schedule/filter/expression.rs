//! The expression of a placement policy.
//!
//! What it says by the cluster's room, which the very Application takes, and that it fails, is no reason for what runs to
//! leave.

use std::sync::Arc;

use super::{Filter, Verdict, View};
use crate::{
    flow::schedule::{expression::Expression, standing::Standing},
    model::placement::Why,
};

#[derive(Debug)]
pub struct Holds(pub Arc<Result<Expression, String>>);

impl Filter for Holds {
    fn words(&self) -> &'static [&'static str] {
        &["ExpressionFalse", "ExpressionFailed"]
    }

    fn judge(&self, view: &View<'_>) -> Verdict {
        let failed = |detail: &str| Standing::Keeps(Why::ExpressionFailed { detail: detail.to_owned() }).into();
        let expression = match &*self.0 {
            Ok(expression) => expression,
            Err(detail) => return failed(detail),
        };
        let why = || Why::ExpressionFalse { expression: expression.text().to_owned() };
        match expression.holds(view.cluster) {
            Ok(true) => Verdict::OPEN,
            Ok(false) if expression.reads_room() => Standing::Keeps(why()).into(),
            Ok(false) => Standing::Leaves(why()).into(),
            Err(detail) => failed(&detail),
        }
    }

    fn reads_room(&self) -> bool {
        self.0.as_ref().as_ref().is_ok_and(Expression::reads_room)
    }
}
