//! Render: an Application's components and traits → manifests, demand and where the replicas stand.
//!
//! Owns: what each component type and trait type makes of its properties, field for field as KubeVela's `vela dry-run`
//! prints it, labels included, so that an Application moves here and back unchanged. Must never: look at the fleet, or
//! render something that differs from what was written because a property was not understood: every such property is
//! an error.
//!
//! Types are values ([`ComponentType`], [`TraitType`]) that are looked up by name; definitions that are evaluated at
//! run time will be further such values.

use serde_json::Value;

use crate::model::{
    Application, Component, FieldError, Trait,
    object::FieldErrorKind,
    revision::{Rendered, RenderedObjects},
};

pub(super) use self::demand::has_replicas;

use self::properties::{Faults, Properties};

pub(super) mod known;
pub(super) mod properties;

mod annotations;
mod container;
mod demand;
mod k8s_objects;
mod labels;
mod metadata;
mod names;
mod numbers;
mod overlay;
mod ports;
mod probes;
mod references;
mod scaler;
mod volumes;
mod webservice;
mod worker;

/// Turns the properties of a component into objects.
struct ComponentType {
    name: &'static str,
    /// The workload first. What is missing or wrong is told to the properties' faults; the objects are void then.
    draft: fn(&Context<'_>, &Properties<'_>) -> Vec<Draft>,
}

/// Changes the workload of a component, as the traits before it left it.
struct TraitType {
    name: &'static str,
    apply: fn(&mut Value, &Properties<'_>),
}

const COMPONENT_TYPES: [ComponentType; 3] = [k8s_objects::TYPE, webservice::TYPE, worker::TYPE];
const TRAIT_TYPES: [TraitType; 3] = [annotations::TYPE, labels::TYPE, scaler::TYPE];

/// What a component is rendered for.
struct Context<'a> {
    application: &'a Application,
    component: &'a Component,
    /// Name of the ApplicationRevision; empty where none is made.
    revision: &'a str,
}

/// An object before it gets the metadata that all rendered objects have.
struct Draft {
    /// What makes it known among its component's objects; empty for the workload.
    key: String,
    /// Where it stands in the Application, if it was written there.
    path: Option<String>,
    object: Value,
}

/// Renders every component, or tells everything that is wrong, in order of components. `revision` is the name of the
/// ApplicationRevision that is made of it (`web-v1`), which becomes a label; empty to see what would be rendered.
pub fn render(application: &Application, revision: &str) -> Result<Rendered, Vec<FieldError>> {
    let faults = Faults::default();
    let mut rendered = Rendered::default();
    for (index, component) in application.spec.components.iter().enumerate() {
        let context = Context { application, component, revision };
        let path = format!("spec.components[{index}]");
        rendered.components.push(render_component(&context, &path, &faults));
    }
    references::resolve(&mut rendered.components);
    let faults = faults.into_vec();
    if faults.is_empty() { Ok(rendered) } else { Err(faults) }
}

fn render_component(context: &Context<'_>, path: &str, faults: &Faults) -> RenderedObjects {
    let component = context.component;
    let mut drafts = Vec::new();
    match COMPONENT_TYPES.iter().find(|known| known.name == component.type_) {
        Some(known) => Properties::visit(&component.properties, &format!("{path}.properties"), faults, |properties| {
            drafts = (known.draft)(context, properties);
        }),
        None => faults.push(unknown_type("component", &component.type_, path, COMPONENT_TYPES.map(|known| known.name))),
    }
    // A component that failed still has its traits checked, on a stand-in, so that all errors come at once.
    let mut stand_in = Value::Object(Default::default());
    for (index, trait_) in component.traits.iter().enumerate() {
        let workload = drafts.first_mut().map_or(&mut stand_in, |draft| &mut draft.object);
        apply_trait(trait_, workload, &format!("{path}.traits[{index}]"), faults);
    }
    let demand::Found { demand, replicas, beside } =
        demand::of(&drafts, &context.application.metadata.namespace, path, faults);
    let objects = drafts.into_iter().map(|draft| metadata::complete(context, draft)).collect();
    let (name, type_) = (component.name.clone(), component.type_.clone());
    RenderedObjects { name, type_, objects, demand, replicas, beside, references: Vec::new() }
}

fn apply_trait(trait_: &Trait, workload: &mut Value, path: &str, faults: &Faults) {
    match TRAIT_TYPES.iter().find(|known| known.name == trait_.type_) {
        Some(known) => Properties::visit(&trait_.properties, &format!("{path}.properties"), faults, |properties| {
            (known.apply)(workload, properties);
        }),
        None => faults.push(unknown_type("trait", &trait_.type_, path, TRAIT_TYPES.map(|known| known.name))),
    }
}

fn unknown_type<const N: usize>(noun: &str, name: &str, path: &str, known: [&str; N]) -> FieldError {
    if name.is_empty() {
        return FieldError::new(format!("{path}.type"), FieldErrorKind::Required, "");
    }
    let detail = known::unknown(&format!("{noun} type"), name, &known);
    FieldError::new(format!("{path}.type"), FieldErrorKind::NotSupported, detail)
}

#[cfg(test)]
mod tests;
