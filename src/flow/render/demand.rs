//! What one replica of a component asks for, and where its replicas stand, read from the rendered workload.
//!
//! Requests as the scheduler of Kubernetes sums them up: containers together, or the largest moment of starting up if
//! that is more; a limit stands in for a missing request, as the API server defaults it. Quantities that do not parse
//! are faults here, because a demand that is guessed would be capacity promised twice.

use serde_json::Value;

use crate::model::{
    Demand, FieldError, GroupVersionKind, Resources,
    demand::Toleration,
    object::FieldErrorKind,
    quantity::Quantity,
    revision::{Beside, ReplicasAt},
};

use super::{Draft, properties::Faults};

mod constraints;

const REPLICAS: &str = "/spec/replicas";

/// What LimitRanges fill in.
const FILLED_IN: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// Prefix of their name for a limit.
const LIMITS: &str = "limits.";

/// What the objects of a component ask for.
#[derive(Debug, Default)]
pub struct Found {
    /// Of the first object that has replicas; else of the first that runs a pod at all.
    pub demand: Option<Demand>,
    pub replicas: Option<ReplicasAt>,
    /// Of the others.
    pub beside: Vec<Beside>,
}

/// A DaemonSet and a CronJob run pods that nobody can count ahead: their quantities are checked, and that is all.
/// `namespace` is where objects run that name none.
pub fn of(drafts: &[Draft], namespace: &str, component: &str, faults: &Faults) -> Found {
    let mut found = Found::default();
    for (index, draft) in drafts.iter().enumerate() {
        let path = draft.path.as_deref().unwrap_or(component);
        let Some(pods) = Pods::of(&draft.object) else { continue };
        let demand = Reader { object: &draft.object, path, faults }.demand(&pods, namespace);
        let (count, ends) = match pods.counted {
            Counted::ByReplicas => (replicas(&draft.object, path, faults), false),
            Counted::UntilDone => (at_once(&draft.object), true),
            Counted::NotAhead => continue,
        };
        if !ends && found.replicas.is_none() {
            found.replicas = Some(ReplicasAt { manifest: index, pointer: REPLICAS.to_owned(), count });
        }
        found.beside.push(Beside { manifest: index, demand, count, ends });
    }
    let workload = found.replicas.as_ref().map_or(0, |at| at.manifest);
    let first = found.beside.iter().position(|known| known.manifest >= workload);
    found.demand = first.map(|first| found.beside.remove(first).demand);
    found
}

/// How many pods a Job runs at once; a Pod is one.
fn at_once(object: &Value) -> u32 {
    let number =
        |field: &str| object.pointer(field).and_then(Value::as_u64).map_or(1, |number| number.min(i32::MAX as u64));
    let (parallel, all) = (number("/spec/parallelism"), object.pointer("/spec/completions").and_then(Value::as_u64));
    u32::try_from(all.map_or(parallel, |all| parallel.min(all))).unwrap_or(u32::MAX)
}

pub fn has_replicas(object: &Value) -> bool {
    Pods::of(object).is_some_and(|pods| matches!(pods.counted, Counted::ByReplicas))
}

/// The spec of the pods that an object runs.
pub fn pod_spec(object: &Value) -> Option<&Value> {
    object.pointer(Pods::of(object)?.pointer)
}

enum Counted {
    ByReplicas,
    UntilDone,
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
            ("", "Pod") => ("/spec", Counted::UntilDone),
            ("apps", "Deployment" | "StatefulSet" | "ReplicaSet") | ("", "ReplicationController") => {
                ("/spec/template/spec", Counted::ByReplicas)
            }
            ("batch", "Job") => ("/spec/template/spec", Counted::UntilDone),
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
    fn demand(&self, pods: &Pods, namespace: &str) -> Demand {
        let spec = pods.pointer;
        let field = |name: &str| self.object.pointer(&format!("{spec}/{name}"));
        let node_selector = field("nodeSelector").and_then(Value::as_object).into_iter().flatten();
        let tolerations = field("tolerations").and_then(Value::as_array).into_iter().flatten();
        let own = self.object.pointer("/metadata/namespace").and_then(Value::as_str);
        Demand {
            requests: self.sum(spec, Self::requested),
            node_selector: node_selector
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            tolerations: tolerations.filter_map(toleration).collect(),
            node_terms: constraints::node_terms(self, spec),
            spread: constraints::spread(self, spec),
            limits: self.sum(spec, Self::limited),
            unsaid: self.unsaid(spec),
            claims: constraints::claims(self, spec),
            namespace: own.unwrap_or(namespace).to_owned(),
        }
    }

    /// KEP-753 gives the sum with init containers that keep running (sidecars): each adds to all that come after it.
    fn sum(&self, spec: &str, of: impl Fn(&Self, &str) -> Resources) -> Resources {
        let mut running = Resources::default();
        for container in self.items(spec, "containers") {
            running.add(&of(self, &container), 1);
        }
        let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
        for container in self.items(spec, "initContainers") {
            let mut moment = of(self, &container);
            if self.is_sidecar(&container) {
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
        running.0.extend(of(self, spec).0);
        running.add(&self.quantities(&format!("{spec}/overhead")), 1);
        running
    }

    /// How many containers say nothing of what a LimitRange may fill in. What runs before them and lasts less counts as one
    /// container more, which is never too little. Nothing is unsaid where it is said for the pod as a whole.
    fn unsaid(&self, spec: &str) -> Resources {
        let mut unsaid = Resources::default();
        let whole = (self.requested(spec), self.limited(spec));
        for name in FILLED_IN {
            let limits = format!("{LIMITS}{name}");
            let of_pod = [(name, &whole.0), (limits.as_str(), &whole.1)];
            for (word, _) in of_pod.into_iter().filter(|(_, whole)| !whole.0.contains_key(name)) {
                let silent = |container: &String| {
                    let said = if word == name { self.requested(container) } else { self.limited(container) };
                    !said.0.contains_key(name)
                };
                let (lasting, brief): (Vec<_>, Vec<_>) = self
                    .items(spec, "initContainers")
                    .into_iter()
                    .filter(silent)
                    .partition(|container| self.is_sidecar(container));
                let running = self.items(spec, "containers").iter().filter(|container| silent(container)).count();
                let count = running + lasting.len() + usize::from(!brief.is_empty());
                if count > 0 {
                    unsaid.0.insert(word.to_owned(), count as i64);
                }
            }
        }
        unsaid
    }

    fn is_sidecar(&self, container: &str) -> bool {
        self.object.pointer(&format!("{container}/restartPolicy")) == Some(&"Always".into())
    }

    /// Pointers to the items of a list.
    fn items(&self, at: &str, list: &str) -> Vec<String> {
        let length = self.object.pointer(&format!("{at}/{list}")).and_then(Value::as_array).map_or(0, Vec::len);
        (0..length).map(|index| format!("{at}/{list}/{index}")).collect()
    }

    fn requested(&self, container: &str) -> Resources {
        let mut amounts = self.limited(container);
        amounts.0.extend(self.quantities(&format!("{container}/resources/requests")).0);
        amounts
    }

    fn limited(&self, container: &str) -> Resources {
        self.quantities(&format!("{container}/resources/limits"))
    }

    fn quantities(&self, pointer: &str) -> Resources {
        let written = self.object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        let amount = |(name, value): (&String, &Value)| match quantity(value) {
            Ok(quantity) => Some((name.clone(), Resources::amount_up(name, quantity))),
            Err(detail) => {
                self.fault(&format!("{}[{name}]", field_path(pointer)), FieldErrorKind::Invalid, detail);
                None
            }
        };
        Resources(written.filter_map(amount).collect())
    }

    /// What is read twice is told once.
    fn fault(&self, field: &str, kind: FieldErrorKind, detail: impl Into<String>) {
        self.faults.push_once(FieldError::new(format!("{}{field}", self.path), kind, detail));
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
    use crate::model::{
        demand::{HOSTNAME_LABEL, Spread, SpreadRule},
        quantity::{CPU, MEMORY},
        selector::Operator,
    };

    type Workload = (Option<Demand>, Option<ReplicasAt>);

    fn found(objects: &[Value]) -> Result<Workload, Vec<String>> {
        all(objects).map(|found| (found.demand, found.replicas))
    }

    fn all(objects: &[Value]) -> Result<Found, Vec<String>> {
        let draft = |(index, object): (usize, &Value)| Draft {
            key: String::new(),
            path: Some(format!("objects[{index}]")),
            object: object.clone(),
        };
        let drafts: Vec<_> = objects.iter().enumerate().map(draft).collect();
        let faults = Faults::default();
        let found = of(&drafts, "shop", "component", &faults);
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
    fn affinity_spread_and_claims_are_part_of_the_demand() {
        let rule = |operator: &str| json!({"key": "pool", "operator": operator, "values": ["a"]});
        let own = json!({"matchLabels": {"app": "web"}});
        let constraint = |when: &str, selector: &Value| json!({"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": when, "labelSelector": selector});
        let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [rule("In"), rule("NotIn")]},
                    {"matchFields": [rule("In")]},
                ]}},
                "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": HOSTNAME_LABEL, "labelSelector": own},
                    {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "other"}}},
                ]},
            },
            "topologySpreadConstraints": [
                constraint("DoNotSchedule", &own),
                constraint("ScheduleAnyway", &own),
                constraint("DoNotSchedule", &json!({"matchLabels": {"app": "other"}})),
            ],
            "volumes": [{"persistentVolumeClaim": {"claimName": "data"}}, {"emptyDir": {}}],
        }});
        let demand = found(&[workload("apps/v1", "Deployment", json!({"template": template}))]).unwrap().0.unwrap();
        assert_eq!(demand.node_terms.len(), 2);
        assert_eq!(
            demand.node_terms[0].iter().map(|rule| rule.operator).collect::<Vec<_>>(),
            [Operator::In, Operator::NotIn]
        );
        assert_eq!(demand.node_terms[1][0].key, "", "no node is chosen by its name");
        let skew = Spread { topology: "zone".into(), rule: SpreadRule::Skew { most: 2, places: 0 } };
        let host = Spread { topology: HOSTNAME_LABEL.into(), rule: SpreadRule::OnePer };
        assert_eq!(demand.spread, [host.clone(), skew]);
        assert_eq!((demand.claims, demand.namespace), (vec!["data".to_owned()], "shop".to_owned()));
        let ports = json!({"containers": [{"ports": [{"containerPort": 80}, {"hostPort": 80}]}]});
        assert_eq!(found(&[deployment(ports)]).unwrap().0.unwrap().spread, [host]);
        let faulty = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [rule("Near")]}]}}}});
        let affinity =
            "objects[0].spec.template.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";
        assert_eq!(
            found(&[deployment(faulty)]).unwrap_err(),
            [format!("{affinity}.nodeSelectorTerms[0].matchExpressions[0]")]
        );
    }

    #[test]
    fn what_is_left_to_the_member_is_counted() {
        let sidecar = json!({"restartPolicy": "Always"});
        let limited = json!({"resources": {"limits": {"cpu": "1"}}});
        let pod = json!({"containers": [cpu("1"), limited, {}], "initContainers": [sidecar, {}, {}]});
        let demand = found(&[deployment(pod)]).unwrap().0.unwrap();
        let expected = [
            ("cpu", 3),
            ("memory", 5),
            ("ephemeral-storage", 5),
            ("limits.cpu", 4),
            ("limits.memory", 5),
            ("limits.ephemeral-storage", 5),
        ];
        assert_eq!(demand.unsaid, Resources::of(expected), "the init containers that end count as one");
        assert_eq!(demand.limits, Resources::of([(CPU, 1000)]));
        let whole = json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{}]});
        assert!(!found(&[deployment(whole)]).unwrap().0.unwrap().unsaid.0.contains_key(CPU));
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
    fn every_object_that_runs_pods_is_counted() {
        let pods = |amount: &str| json!({"spec": {"containers": [cpu(amount)]}});
        let deployment = |amount: &str, replicas: u32| {
            workload("apps/v1", "Deployment", json!({"replicas": replicas, "template": pods(amount)}))
        };
        let job = |bounds: Value| {
            let mut spec = bounds;
            spec["template"] = pods("300m");
            workload("batch/v1", "Job", spec)
        };
        let daemon = workload("apps/v1", "DaemonSet", json!({"template": pods("1")}));
        let beside = |objects: &[Value]| {
            let found = all(objects).unwrap();
            let told = found
                .beside
                .iter()
                .map(|known| (known.manifest, known.demand.requests.get(CPU), known.count, known.ends));
            (found.demand.unwrap().requests.get(CPU), told.collect::<Vec<_>>())
        };
        let objects = [job(json!({})), deployment("100m", 2), daemon, deployment("200m", 5)];
        assert_eq!(
            beside(&objects),
            (100, vec![(0, 300, 1, true), (3, 200, 5, false)]),
            "the first with replicas leads"
        );
        let jobs = [job(json!({})), job(json!({"parallelism": 4, "completions": 3})), job(json!({"parallelism": 2}))];
        assert_eq!(beside(&jobs), (300, vec![(1, 300, 3, true), (2, 300, 2, true)]));
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
