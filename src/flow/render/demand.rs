//! What one replica of a component asks for, and where its replicas stand, read from the rendered workload.
//!
//! Requests as the scheduler of Kubernetes sums them up: containers together, or the largest moment of starting up if
//! that is more; a limit stands in for a missing request, as the API server defaults it. Quantities that do not parse
//! are faults here, because a demand that is guessed would be capacity promised twice.

use serde_json::Value;

use crate::model::{
    Demand, FieldError, GroupVersionKind, Resources, demand::Toleration, object::FieldErrorKind, quantity::Quantity,
    revision::ReplicasAt,
};

use super::{Draft, properties::Faults};

const REPLICAS: &str = "/spec/replicas";

/// Of the first object that has replicas; else of the first that runs a pod at all. A DaemonSet and a CronJob run pods
/// that nobody can count ahead: their quantities are checked, and that is all.
pub fn of(drafts: &[Draft], component: &str, faults: &Faults) -> (Option<Demand>, Option<ReplicasAt>) {
    let (mut replicated, mut single) = (None, None);
    for (index, draft) in drafts.iter().enumerate() {
        let path = draft.path.as_deref().unwrap_or(component);
        let Some(pods) = Pods::of(&draft.object) else { continue };
        let demand = Reader { object: &draft.object, path, faults }.demand(&pods);
        match pods.counted {
            Counted::ByReplicas if replicated.is_none() => {
                let count = replicas(&draft.object, path, faults);
                let replicas = ReplicasAt { manifest: index, pointer: REPLICAS.to_owned(), count };
                replicated = Some((Some(demand), Some(replicas)));
            }
            Counted::AsOne if single.is_none() => single = Some((Some(demand), None)),
            _ => {}
        }
    }
    replicated.or(single).unwrap_or_default()
}

pub fn has_replicas(object: &Value) -> bool {
    Pods::of(object).is_some_and(|pods| matches!(pods.counted, Counted::ByReplicas))
}

enum Counted {
    ByReplicas,
    AsOne,
    NotAhead,
}

struct Pods {
    /// Where the pod's spec stands in the object.
    pointer: &'static str,
    counted: Counted,
}

impl Pods {
    fn of(object: &Value) -> Option<Self> {
        let gvk = GroupVersionKind::of(object)?;
        let (pointer, counted) = match (gvk.group.as_str(), gvk.kind.as_str()) {
            ("", "Pod") => ("/spec", Counted::AsOne),
            ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") | ("", "ReplicationController") => {
                ("/spec/template/spec", Counted::ByReplicas)
            }
            ("batch", "Job") => ("/spec/template/spec", Counted::AsOne),
            ("apps", "DaemonSet") => ("/spec/template/spec", Counted::NotAhead),
            ("batch", "CronJob") => ("/spec/jobTemplate/spec/template/spec", Counted::NotAhead),
            _ if has_template_and_replicas(object) => ("/spec/template/spec", Counted::ByReplicas),
            _ => return None,
        };
        Some(Self { pointer, counted })
    }
}

/// Kinds of other people that work like a Deployment.
fn has_template_and_replicas(object: &Value) -> bool {
    object.pointer(REPLICAS).is_some_and(Value::is_i64)
        && object.pointer("/spec/template").is_some_and(Value::is_object)
}

fn replicas(object: &Value, path: &str, faults: &Faults) -> u32 {
    match object.pointer(REPLICAS) {
        None | Some(Value::Null) => 1,
        Some(written) => match written.as_i64().and_then(|count| i32::try_from(count).ok()?.try_into().ok()) {
            Some(count) => count,
            None => {
                let detail = format!("expected an integer between 0 and {}", i32::MAX);
                faults.push(FieldError::new(format!("{path}.spec.replicas"), FieldErrorKind::Invalid, detail));
                1
            }
        },
    }
}

/// Reads a pod's spec within an object.
struct Reader<'a> {
    object: &'a Value,
    path: &'a str,
    faults: &'a Faults,
}

impl Reader<'_> {
    fn demand(&self, pods: &Pods) -> Demand {
        let spec = pods.pointer;
        let field = |name: &str| self.object.pointer(&format!("{spec}/{name}"));
        let node_selector = field("nodeSelector").and_then(Value::as_object).into_iter().flatten();
        let tolerations = field("tolerations").and_then(Value::as_array).into_iter().flatten();
        Demand {
            requests: self.requests(spec),
            node_selector: node_selector
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            tolerations: tolerations.filter_map(toleration).collect(),
        }
    }

    /// KEP-753 gives the sum with init containers that keep running (sidecars): each adds to all that come after it.
    fn requests(&self, spec: &str) -> Resources {
        let mut running = Resources::default();
        for container in self.containers(spec, "containers") {
            running.add(&self.container(&container), 1);
        }
        let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
        for container in self.containers(spec, "initContainers") {
            let mut moment = self.container(&container);
            if self.object.pointer(&format!("{container}/restartPolicy")) == Some(&"Always".into()) {
                sidecars.add(&moment, 1);
                moment = sidecars.clone();
            } else {
                moment.add(&sidecars, 1);
            }
            raise(&mut starting, &moment);
        }
        running.add(&sidecars, 1);
        raise(&mut running, &starting);
        // Said for the pod as a whole (KEP-2837), it counts instead of the containers' sum.
        running.0.extend(self.container(spec).0);
        running.add(&self.quantities(&format!("{spec}/overhead")), 1);
        running
    }

    fn containers(&self, spec: &str, list: &str) -> Vec<String> {
        let length = self.object.pointer(&format!("{spec}/{list}")).and_then(Value::as_array).map_or(0, Vec::len);
        (0..length).map(|index| format!("{spec}/{list}/{index}")).collect()
    }

    fn container(&self, pointer: &str) -> Resources {
        let mut amounts = self.quantities(&format!("{pointer}/resources/limits"));
        amounts.0.extend(self.quantities(&format!("{pointer}/resources/requests")).0);
        amounts
    }

    fn quantities(&self, pointer: &str) -> Resources {
        let written = self.object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        let amount = |(name, value): (&String, &Value)| match quantity(value) {
            Ok(quantity) => Some((name.clone(), Resources::amount_up(name, quantity))),
            Err(detail) => {
                let path = format!("{}{}[{name}]", self.path, field_path(pointer));
                self.faults.push(FieldError::new(path, FieldErrorKind::Invalid, detail));
                None
            }
        };
        Resources(written.filter_map(amount).collect())
    }
}

/// Kubernetes takes a bare number for a quantity too.
fn quantity(value: &Value) -> Result<Quantity, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err("expected a quantity, such as 500m, 2 or 1.5Gi".to_owned()),
    };
    let quantity: Quantity =
        text.parse().map_err(|error: crate::model::quantity::InvalidQuantity| error.to_string())?;
    if quantity.milli() < 0 { Err(format!("{text} is less than nothing")) } else { Ok(quantity) }
}

fn toleration(value: &Value) -> Option<Toleration> {
    serde_json::from_value(value.clone()).ok()
}

/// The larger of both, resource by resource.
fn raise(target: &mut Resources, other: &Resources) {
    for (name, amount) in &other.0 {
        let held = target.0.entry(name.clone()).or_insert(0);
        *held = (*held).max(*amount);
    }
}

/// `/spec/containers/0/resources` → `.spec.containers[0].resources`
fn field_path(pointer: &str) -> String {
    let tokens = pointer.split('/').skip(1);
    tokens
        .map(|token| if token.parse::<usize>().is_ok() { format!("[{token}]") } else { format!(".{token}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::quantity::{CPU, MEMORY};

    type Found = (Option<Demand>, Option<ReplicasAt>);

    fn found(objects: &[Value]) -> Result<Found, Vec<String>> {
        let draft = |(index, object): (usize, &Value)| Draft {
            key: String::new(),
            path: Some(format!("objects[{index}]")),
            object: object.clone(),
        };
        let drafts: Vec<_> = objects.iter().enumerate().map(draft).collect();
        let faults = Faults::default();
        let found = of(&drafts, "component", &faults);
        let faults = faults.into_vec();
        if faults.is_empty() { Ok(found) } else { Err(faults.into_iter().map(|fault| fault.path).collect()) }
    }

    fn workload(api_version: &str, kind: &str, spec: Value) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "spec": spec})
    }

    fn deployment(pod: Value) -> Value {
        workload("apps/v1", "Deployment", json!({"template": {"spec": pod}}))
    }

    fn requests(pod: Value) -> Resources {
        found(&[deployment(pod)]).unwrap().0.unwrap().requests
    }

    fn cpu(amount: &str) -> Value {
        json!({"resources": {"requests": {"cpu": amount}}})
    }

    #[test]
    fn containers_add_up_and_limits_stand_in_for_requests() {
        let pod = json!({"containers": [
            {"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "64Mi"}}},
            {"resources": {"limits": {"cpu": 2, "nvidia.com/gpu": "1"}}},
            {},
        ]});
        assert_eq!(requests(pod), Resources::of([(CPU, 2100), (MEMORY, 64 << 20), ("nvidia.com/gpu", 1)]));
    }

    #[test]
    fn the_largest_moment_of_starting_counts() {
        let sidecar = json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}});
        let pod = json!({"initContainers": [cpu("300m"), sidecar, cpu("120m")], "containers": [cpu("100m")]});
        assert_eq!(requests(pod), Resources::of([(CPU, 300)]));
        let pod = json!({"initContainers": [sidecar, cpu("290m")], "containers": [cpu("100m")]});
        assert_eq!(requests(pod), Resources::of([(CPU, 340)]), "beside the sidecar that runs already");
        let pod = json!({"initContainers": [sidecar], "containers": [cpu("100m")], "overhead": {"cpu": "7m"}});
        assert_eq!(requests(pod), Resources::of([(CPU, 157)]));
    }

    #[test]
    fn what_is_said_for_the_whole_pod_counts() {
        let pod = json!({"resources": {"requests": {"cpu": "1"}}, "containers": [cpu("100m"), cpu("200m")]});
        assert_eq!(requests(pod), Resources::of([(CPU, 1000)]));
    }

    #[test]
    fn constraints_of_the_pod_are_part_of_the_demand() {
        let pod = json!({
            "nodeSelector": {"kubernetes.io/arch": "arm64"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 5}],
        });
        let demand = found(&[deployment(pod)]).unwrap().0.unwrap();
        assert_eq!(demand.node_selector, [("kubernetes.io/arch".to_owned(), "arm64".to_owned())].into());
        let toleration = Toleration { key: "gpu".into(), operator: "Exists".into(), ..Toleration::default() };
        assert_eq!(demand.tolerations, [toleration]);
    }

    #[test]
    fn replicas_are_counted_where_a_kind_has_them() {
        let template = json!({"spec": {"containers": [cpu("100m")]}});
        let replicas = |count| json!({"replicas": count, "template": template});
        let bare = json!({"template": template});
        for (object, counts, expected) in [
            (workload("apps/v1", "Deployment", replicas(json!(4))), true, Some(4)),
            (workload("apps/v1", "StatefulSet", bare.clone()), true, Some(1)),
            (workload("apps/v1", "ReplicaSet", replicas(json!(null))), true, Some(1)),
            (workload("example.com/v1", "CloneSet", replicas(json!(0))), true, Some(0)),
            (workload("example.com/v1", "CloneSet", bare.clone()), false, None),
            (workload("batch/v1", "Job", bare.clone()), true, None),
            (workload("v1", "Pod", json!({"containers": []})), true, None),
            (workload("apps/v1", "DaemonSet", bare.clone()), false, None),
            (workload("batch/v1", "CronJob", json!({"jobTemplate": {"spec": bare}})), false, None),
            (workload("v1", "ConfigMap", json!({})), false, None),
        ] {
            let (demand, replicas) = found(std::slice::from_ref(&object)).unwrap();
            assert_eq!((demand.is_some(), replicas.map(|at| at.count)), (counts, expected), "{object}");
        }
    }

    #[test]
    fn the_object_with_replicas_is_found_wherever_it_stands() {
        let objects = [
            workload("v1", "ConfigMap", json!({})),
            workload("batch/v1", "Job", json!({"template": {"spec": {"containers": [cpu("1")]}}})),
            deployment(json!({"containers": [cpu("200m")]})),
        ];
        let (demand, replicas) = found(&objects).unwrap();
        assert_eq!(demand.unwrap().requests, Resources::of([(CPU, 200)]));
        assert_eq!(replicas.unwrap().manifest, 2);
    }

    #[test]
    fn faulty_figures_are_told_with_their_paths() {
        let faulty = |spec: Value| found(&[json!({}), workload("apps/v1", "Deployment", spec)]).unwrap_err();
        for replicas in [json!("3"), json!(-1), json!(1.5), json!(1u64 << 31)] {
            assert_eq!(faulty(json!({"replicas": replicas})), ["objects[1].spec.replicas"], "{replicas}");
        }
        let pod = json!({"containers": [{}, {"resources": {"requests": {"cpu": "x"}, "limits": {"memory": true, "a": "-1"}}}]});
        let container = "objects[1].spec.template.spec.containers[1].resources";
        let expected = [".limits[a]", ".limits[memory]", ".requests[cpu]"].map(|field| format!("{container}{field}"));
        assert_eq!(faulty(json!({"template": {"spec": pod}})), expected);
        let cron = workload(
            "batch/v1",
            "CronJob",
            json!({"jobTemplate": {"spec": {"template": {"spec": {"overhead": {"cpu": ""}}}}}}),
        );
        assert_eq!(found(&[cron]).unwrap_err(), ["objects[0].spec.jobTemplate.spec.template.spec.overhead[cpu]"]);
    }
}
