//! Admit: everything that is wrong with an Application, at once, before it is stored.
//!
//! Owns: what an Application may say. Must never: stop at the first fault, change what was written, or let through what
//! nobody would carry out: that is refused in words, never ignored.

use serde_json::Value;

use crate::model::{Application, FieldError, object::FieldErrorKind};

use super::render::render;

/// Faults that one answer lists.
pub const FAULTS_MAX: usize = 100;

/// All faults in order of their paths; empty where the Application is good. What the schema of the kind says (unknown
/// fields, types) is taken as checked.
pub fn admit(application: &Value) -> Vec<FieldError> {
    let application: Application = match serde_json::from_value(application.clone()) {
        Ok(application) => application,
        Err(error) => return vec![FieldError::new("spec", FieldErrorKind::TypeInvalid, error.to_string())],
    };
    let mut faults = render(&application, "").err().unwrap_or_default();
    faults.sort();
    faults.truncate(FAULTS_MAX);
    faults
}
