//! `deliver`: from the moment an Application is due to be applied until it is in every member.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use serde_json::{Map, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{
    Row,
    hub::{Hub, SOON, application, applications, create, everywhere},
    load::{Arrivals, Samples, milliseconds},
    members::{Members, Orders, micros, name},
    process::Usage,
};

pub const NAMESPACE: &str = "bench";
/// Arrivals of the burst, all at once.
pub const BURST: usize = 500;
/// Embedded members that the burst goes to: as many as real ones in the comparison.
pub const BURST_MEMBERS: usize = 6;

/// So many Applications at such a rate that deliveries per second stay within what two cores do: what is to be seen is
/// the way's length, not a queue's.
pub fn arrivals(members: usize) -> Arrivals {
    let per_second = (400.0 / members as f64).clamp(0.5, 20.0);
    Arrivals { count: (per_second * 20.0).clamp(10.0, 200.0) as usize, per_second }
}

/// One row: `members` embedded ones and these arrivals.
pub async fn embedded(directory: &Path, members: usize, arrivals: Arrivals) -> anyhow::Result<Row> {
    let hub = Hub::start(directory).await?;
    let tokens = hub.invite((0..members).map(name)).await?;
    let mut agents = Members::start(directory, &Orders { hub: hub.url.clone(), tokens }).await?;
    hub.wait_for_clusters(members).await?;
    hub.make_namespace(NAMESPACE).await?;
    // The first delivery makes the namespace in every member and opens every connection.
    deliver(&hub, &mut agents, members, "warm", Arrivals { count: 1, per_second: 0.0 }).await?;

    let (hub_before, agents_before, revision) = (hub.usage()?, agents.usage()?, hub.revision().await?);
    let times = deliver(&hub, &mut agents, members, "app", arrivals).await?;
    hub.wait_for_running(NAMESPACE, arrivals.count + 1, SOON).await?;
    let (hub_after, agents_after) = (hub.usage()?, agents.usage()?);

    let mut row = Map::new();
    row.insert("system".into(), json!("hanse"));
    row.insert("members".into(), json!(members));
    row.insert("member_kind".into(), json!("embedded"));
    times.into_row(arrivals, &mut row);
    add_cpu("hub", hub_before, hub_after, arrivals.count, &mut row);
    // With the simulated members' own part in it.
    add_cpu("agents", agents_before, agents_after, arrivals.count, &mut row);
    let writes = hub.revision().await? - revision;
    row.insert("hub_writes_per_application".into(), json!(writes as f64 / arrivals.count as f64));
    Ok(row)
}

fn add_cpu(who: &str, before: Usage, after: Usage, applications: usize, row: &mut Row) {
    let each = (after.cpu_ms - before.cpu_ms) as f64 / applications as f64;
    row.insert(format!("{who}_cpu_ms_per_application"), json!(each));
    row.insert(format!("{who}_rss_bytes"), json!(after.rss_bytes));
}

/// When each Application was due, when the hub had taken it, and when it was in each member.
#[derive(Debug, Default)]
pub struct Times {
    pub due: BTreeMap<String, u64>,
    pub accepted: Vec<Duration>,
    pub applied: BTreeMap<String, Vec<u64>>,
}

impl Times {
    /// The rates, and the times of acceptance, of each delivery and of each Application's last one.
    pub fn into_row(self, arrivals: Arrivals, row: &mut Row) {
        row.insert("applications".into(), json!(arrivals.count));
        if arrivals.per_second > 0.0 {
            row.insert("applications_per_s".into(), json!(arrivals.per_second));
        } else {
            row.insert("burst".into(), json!(true));
        }
        let since = |application: &str, at: u64| Duration::from_micros(at.saturating_sub(self.due[application]));
        let each: Samples = self.applied.iter().flat_map(|(name, all)| all.iter().map(|at| since(name, *at))).collect();
        let last: Vec<Duration> =
            self.applied.iter().filter_map(|(name, all)| Some(since(name, *all.iter().max()?))).collect();
        row.insert("total_ms".into(), json!(last.iter().max().map_or(0.0, |longest| milliseconds(*longest))));
        self.accepted.into_iter().collect::<Samples>().into_row("accepted_", row);
        each.into_row("", row);
        last.into_iter().collect::<Samples>().into_row("last_", row);
    }
}

/// Applies at the planned moments, whatever became of the ones before, and waits until each has arrived `copies` times.
/// `arrived` tells the next arrival: an Application's name, and when that was.
pub async fn run<Apply, Applying>(
    prefix: &str,
    arrivals: Arrivals,
    copies: usize,
    apply: Apply,
    mut arrived: impl AsyncFnMut() -> anyhow::Result<(String, u64)>,
) -> anyhow::Result<Times>
where
    Apply: Fn(String) -> Applying,
    Applying: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut times = Times::default();
    let (start, start_us) = (Instant::now(), micros(SystemTime::now()));
    let mut calls = JoinSet::new();
    for (number, offset) in arrivals.offsets().enumerate() {
        let name = format!("{prefix}-{number:04}");
        times.due.insert(name.clone(), start_us + offset.as_micros() as u64);
        let call = apply(name);
        calls.spawn(async move {
            sleep_until(start + offset).await;
            call.await?;
            anyhow::Ok(Instant::now() - (start + offset))
        });
    }
    let mut missing = copies * arrivals.count;
    while missing > 0 || !calls.is_empty() {
        tokio::select! {
            Some(call) = calls.join_next() => times.accepted.push(call??),
            arrival = timeout(SOON, arrived()), if missing > 0 => {
                let Ok(arrival) = arrival else {
                    bail!("{missing} deliveries are missing, and none came for {} s", SOON.as_secs())
                };
                let (name, at_us) = arrival?;
                if times.due.contains_key(&name) {
                    times.applied.entry(name).or_default().push(at_us);
                    missing -= 1;
                }
            }
        }
    }
    Ok(times)
}

/// Through the hub to every member.
async fn deliver(
    hub: &Hub,
    agents: &mut Members,
    members: usize,
    prefix: &str,
    arrivals: Arrivals,
) -> anyhow::Result<Times> {
    run(prefix, arrivals, members, |name| apply_to_hub(hub, name), async || agents.arrival().await).await
}

/// A call that applies the Application of this name, in every cluster.
pub fn apply_to_hub(hub: &Hub, name: String) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let (client, path, object) = (hub.client(), applications(NAMESPACE), application(&name, &everywhere()));
    async move { create(&client, &path, &object).await }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn times_count_from_the_planned_moment_and_the_last_member_counts_for_all() {
        let times = Times {
            due: BTreeMap::from([("a".into(), 1_000_000), ("b".into(), 2_000_000)]),
            accepted: vec![Duration::from_millis(1), Duration::from_millis(2)],
            applied: BTreeMap::from([
                ("a".into(), vec![1_010_000, 1_030_000]),
                ("b".into(), vec![2_005_000, 2_020_000]),
            ]),
        };
        let mut row = Map::new();
        times.into_row(Arrivals { count: 2, per_second: 1.0 }, &mut row);
        let figure = |name: &str| row[name].as_f64().expect("a figure");
        assert_eq!([figure("p50_ms"), figure("max_ms")], [10.0, 30.0]);
        assert_eq!([figure("last_p50_ms"), figure("last_max_ms")], [20.0, 30.0]);
        assert_eq!(figure("accepted_max_ms"), 2.0);
        assert_eq!(row["applications_per_s"], Value::from(1.0));
    }

    #[test]
    fn more_members_get_fewer_applications_a_second() {
        let rates: Vec<f64> = [1, 10, 100, 1000].map(|members| arrivals(members).per_second).into();
        assert_eq!(rates, [20.0, 20.0, 4.0, 0.5]);
        assert!([1, 10, 100, 1000].iter().all(|members| arrivals(*members).count >= 10));
    }
}
