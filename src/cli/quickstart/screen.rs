//! What a quickstart prints: for people on a terminal, for people reading a log, or for programs.

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use serde_json::{Value, json};

/// Apps × clusters at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Picture {
    pub clusters: Vec<Cluster>,
    pub lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cluster {
    pub name: String,
    /// The status of its condition Ready.
    pub ready: String,
    /// Its agent has said how much room it has: from then on replicas are divided over it.
    pub is_measured: bool,
}

/// One component of one Application.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Line {
    pub application: String,
    pub component: String,
    pub phase: String,
    pub sum: String,
    /// Ready and desired replicas by cluster.
    pub cells: BTreeMap<String, (u64, u64)>,
}

impl Picture {
    /// How many clusters are up and can be placed on.
    pub fn available(&self) -> usize {
        self.clusters.iter().filter(|cluster| cluster.ready == "True" && cluster.is_measured).count()
    }

    /// The status of a cluster's condition Ready.
    pub fn ready(&self, name: &str) -> Option<&str> {
        self.clusters.iter().find(|cluster| cluster.name == name).map(|cluster| cluster.ready.as_str())
    }

    /// Whether every Application runs as it should.
    pub fn is_running(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|line| line.phase == "running")
    }

    /// Ready and desired replicas of a component over all clusters.
    pub fn total(&self, application: &str, component: &str) -> (u64, u64) {
        let lines = self.lines.iter().filter(|line| line.application == application && line.component == component);
        lines.flat_map(|line| line.cells.values()).fold((0, 0), |(a, b), (ready, desired)| (a + ready, b + desired))
    }

    fn json(&self) -> Value {
        let lines = self.lines.iter().map(|line| {
            let cells = line
                .cells
                .iter()
                .map(|(cluster, (ready, desired))| (cluster.clone(), json!({"ready": ready, "desired": desired})));
            json!({"application": line.application, "component": line.component, "phase": line.phase,
                "clusters": Value::Object(cells.collect())})
        });
        let clusters = self.clusters.iter().map(|cluster| json!({"name": cluster.name, "ready": cluster.ready}));
        json!({"event": "picture", "clusters": clusters.collect::<Vec<_>>(), "lines": lines.collect::<Vec<_>>()})
    }
}

/// Of a terminal that does not say.
const WIDTH: usize = 80;

pub struct Screen {
    json: bool,
    terminal: bool,
    colours: bool,
    /// Lines of the table on the terminal, which the next one replaces.
    drawn: usize,
    last: Option<Picture>,
}

impl Screen {
    pub fn new(json: bool, terminal: bool) -> Self {
        // https://no-color.org
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json, terminal, colours, drawn: 0, last: None }
    }

    pub fn note(&mut self, text: &str) {
        self.event(text, || json!({"event": "note", "text": text}));
    }

    /// A step of the tour that was checked.
    pub fn step(&mut self, title: &str, detail: &str, took: Duration, passed: bool) {
        let (mark, seconds) = (if passed { "✓" } else { "✗" }, took.as_secs_f64());
        let mark = match (self.colours, passed) {
            (false, _) => mark.to_owned(),
            (true, true) => format!("\x1b[32m{mark}\x1b[0m"),
            (true, false) => format!("\x1b[31m{mark}\x1b[0m"),
        };
        let line = format!("{mark} {title:<42} {seconds:>5.1} s   {detail}");
        self.event(
            line.trim_end(),
            || json!({"event": "step", "step": title, "passed": passed, "seconds": seconds, "detail": detail}),
        );
    }

    pub fn hints(&mut self, kubeconfig: &Path, temporary: bool) {
        let path = kubeconfig.display();
        let kept = if temporary { "Ctrl-C stops everything and removes it." } else { "Ctrl-C stops everything." };
        let text = format!(
            "\nThe member clusters are simulated: their nodes and pods are not real. Hub, API, agents and protocol are.\n\
             \n  export KUBECONFIG={path}\
             \n  kubectl get clusters\
             \n  kubectl get applications\
             \n  kubectl get works\
             \n  kubectl patch application shop --type json -p \
             '[{{\"op\":\"replace\",\"path\":\"/spec/components/0/traits/0/properties/replicas\",\"value\":18}}]'\
             \n\nA real cluster joins with `hanse quickstart --attach CONTEXT` (kind, k3d, any of your kubeconfig), or with the\
             \ncommand that `hanse token create NAME` prints. {kept}\n"
        );
        self.event(&text, || json!({"event": "ready", "kubeconfig": path.to_string()}));
    }

    /// On a terminal in place; elsewhere only what changed.
    pub fn draw(&mut self, picture: &Picture) {
        if self.last.as_ref() == Some(picture) {
            return;
        }
        if self.json {
            print_line(&picture.json().to_string());
        } else if self.terminal {
            let text = table(picture, width(), self.colours);
            if self.drawn > 0 {
                // Up to where the last table began, and clear from there.
                print!("\x1b[{}A\x1b[J", self.drawn);
            }
            self.drawn = text.lines().count();
            print_line(&text);
        } else {
            let known = self.last.as_ref();
            let is_new = |line: &&Line| !known.is_some_and(|known| known.lines.contains(line));
            let changed = picture.lines.iter().filter(is_new);
            changed.for_each(|line| print_line(&plain(line)));
            let is_other =
                |cluster: &&Cluster| known.is_some_and(|known| known.ready(&cluster.name) != Some(&cluster.ready));
            picture.clusters.iter().filter(is_other).for_each(|cluster| {
                print_line(&format!("cluster {} Ready={}", cluster.name, cluster.ready));
            });
        }
        self.last = Some(picture.clone());
    }

    fn event(&mut self, text: &str, json: impl FnOnce() -> Value) {
        if self.json {
            print_line(&json().to_string());
        } else {
            print_line(text);
        }
        // What was drawn scrolls away.
        self.drawn = 0;
    }
}

fn width() -> usize {
    comfy_table::Table::new().width().map_or(WIDTH, usize::from).max(WIDTH / 2)
}

/// A reader that went away (`| head`) is no reason to fail.
fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn plain(line: &Line) -> String {
    let cells = line.cells.iter().map(|(cluster, (ready, desired))| format!("{cluster} {ready}/{desired}"));
    let name = format!("{}/{}", line.application, line.component);
    format!("{name:<24} {:<16} {}", line.phase, cells.collect::<Vec<_>>().join("  "))
}

/// Columns of the table but for the clusters': names are cut at these widths.
const APPLICATION_WIDTH: usize = 16;
const COMPONENT_WIDTH: usize = 16;
const PHASE_WIDTH: usize = 16;
/// The column that sums up the clusters for which there is no room: counts of a fleet, not of one cluster.
const REST_WIDTH: usize = 16;

/// As many clusters as `width` has room for; the rest is summed up in one column.
fn table(picture: &Picture, width: usize, colours: bool) -> String {
    let longest = picture.clusters.iter().map(|cluster| cluster.name.chars().count()).max().unwrap_or(0);
    // "Unknown" and "100/100" are seven.
    let cell_width = longest.clamp(7, 16) + 2;
    let room = width.saturating_sub(APPLICATION_WIDTH + COMPONENT_WIDTH + PHASE_WIDTH + 4);
    let count = picture.clusters.len();
    let is_roomy = count <= (room / cell_width).max(1);
    let shown = if is_roomy { count } else { (room.saturating_sub(REST_WIDTH) / cell_width).max(1) };
    let (shown, rest) = picture.clusters.split_at(shown);
    let paint = |text: String, good: bool| match (colours, good) {
        (false, _) => text,
        (true, true) => format!("\x1b[32m{text}\x1b[0m"),
        (true, false) => format!("\x1b[33m{text}\x1b[0m"),
    };
    let left = |text: &str, width: usize| format!("{:<width$} ", cut(text, width));
    let within = |text: &str, width: usize| format!("{:>width$}", cut(text, width - 2));
    let right = |text: &str| within(text, cell_width);
    let summed = |text: &str| within(text, REST_WIDTH);
    let mut header = left("APPLICATION", APPLICATION_WIDTH) + &left("COMPONENT", COMPONENT_WIDTH);
    let mut states = " ".repeat(APPLICATION_WIDTH + COMPONENT_WIDTH + 2);
    for Cluster { name, ready, .. } in shown {
        header.push_str(&right(name));
        let state = if ready == "True" { "Ready" } else { ready };
        states.push_str(&paint(right(state), ready == "True"));
    }
    if !rest.is_empty() {
        header.push_str(&summed(&format!("{} more", rest.len())));
        let ready = rest.iter().filter(|cluster| cluster.ready == "True").count();
        states.push_str(&paint(summed(&format!("{ready} up")), ready == rest.len()));
    }
    let mut lines = vec![header + "  PHASE", states];
    let mut previous = "";
    for line in &picture.lines {
        let repeated = line.application == previous;
        previous = &line.application;
        let name = if repeated { "" } else { &line.application };
        let mut row = left(name, APPLICATION_WIDTH) + &left(&line.component, COMPONENT_WIDTH);
        for cluster in shown {
            row.push_str(&match line.cells.get(&cluster.name) {
                Some((ready, desired)) => paint(right(&format!("{ready}/{desired}")), ready == desired),
                None => right("·"),
            });
        }
        if !rest.is_empty() {
            let others = rest.iter().filter_map(|cluster| line.cells.get(&cluster.name));
            let (ready, desired) = others.fold((0, 0), |(a, b), (ready, desired)| (a + ready, b + desired));
            row.push_str(&paint(summed(&format!("{ready}/{desired}")), ready == desired));
        }
        let phase = if repeated { String::new() } else { format!("  {}", cut(&line.phase, PHASE_WIDTH)) };
        lines.push(row + &paint(phase, line.phase == "running"));
    }
    lines.join("\n")
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept = text.chars().take(width.saturating_sub(1));
    kept.chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(clusters: usize) -> Picture {
        let cluster = |index| Cluster { name: format!("c{index}"), ready: "True".into(), is_measured: true };
        let clusters = (0..clusters).map(cluster).collect::<Vec<_>>();
        let cells = clusters.iter().map(|cluster| (cluster.name.clone(), (1, 2))).collect();
        let line = Line {
            application: "shop".into(),
            component: "web".into(),
            phase: "running".into(),
            cells,
            ..Line::default()
        };
        Picture { clusters, lines: vec![line] }
    }

    #[test]
    fn a_large_fleet_is_summed_up_in_one_column() {
        let text = table(&picture(1000), 100, false);
        assert!(text.contains("997 more") && text.contains("997/1994"), "{text}");
        assert!(!table(&picture(3), 100, false).contains("more"));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }

    #[test]
    fn a_narrow_terminal_shows_one_cluster_and_the_sum_of_the_others() {
        let text = table(&picture(3), 40, false);
        assert!(text.contains("c0") && text.contains("2 more") && text.contains("2/4"), "{text}");
    }

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(cut("storefront", 6), "store…");
        assert_eq!(cut("store", 6), "store");
    }

    #[test]
    fn totals_add_up_over_clusters() {
        assert_eq!(picture(3).total("shop", "web"), (3, 6));
        assert_eq!(picture(3).total("shop", "other"), (0, 0));
    }

    #[test]
    fn an_empty_fleet_is_not_running() {
        assert!(!Picture::default().is_running());
        assert!(picture(1).is_running());
    }
}
