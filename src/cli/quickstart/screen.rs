//! What a quickstart prints: for people on a terminal, for people reading a log, or for programs.

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};
use serde_json::{Value, json};

/// Apps × clusters at one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Picture {
    /// Name and whether it is Ready.
    pub clusters: Vec<(String, String)>,
    pub lines: Vec<Line>,
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
        let clusters = self.clusters.iter().map(|(name, ready)| json!({"name": name, "ready": ready}));
        json!({"event": "picture", "clusters": clusters.collect::<Vec<_>>(), "lines": lines.collect::<Vec<_>>()})
    }
}

/// Columns for clusters; the rest is summed up in one.
const CLUSTERS_MAX: usize = 8;

pub struct Screen {
    json: bool,
    terminal: bool,
    /// Lines of the table on the terminal, which the next one replaces.
    drawn: usize,
    last: Option<Picture>,
}

impl Screen {
    pub fn new(json: bool, terminal: bool) -> Self {
        Self { json, terminal, drawn: 0, last: None }
    }

    pub fn note(&mut self, text: &str) {
        self.event(text, || json!({"event": "note", "text": text}));
    }

    /// A step of the tour that was checked.
    pub fn step(&mut self, title: &str, detail: &str, took: Duration, passed: bool) {
        let (mark, seconds) = (if passed { "✓" } else { "✗" }, took.as_secs_f64());
        let mark = match (self.terminal, passed) {
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
            let text = table(picture, true);
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
            let silent = |(name, ready): &&(String, String)| {
                known.is_some_and(|known| !known.clusters.contains(&(name.clone(), ready.clone())))
            };
            picture.clusters.iter().filter(silent).for_each(|(name, ready)| {
                print_line(&format!("cluster {name} Ready={ready}"));
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

fn table(picture: &Picture, colours: bool) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    let shown = &picture.clusters[..picture.clusters.len().min(CLUSTERS_MAX)];
    let rest = &picture.clusters[shown.len()..];
    let paint = |cell: Cell, good: bool| match (colours, good) {
        (false, _) => cell,
        (true, true) => cell.fg(Color::Green),
        (true, false) => cell.fg(Color::Yellow),
    };
    let mut header = vec![Cell::new("APPLICATION"), Cell::new("COMPONENT")];
    for (name, ready) in shown {
        let words = if ready == "True" { name.clone() } else { format!("{name}\n{ready}") };
        header.push(paint(Cell::new(words), ready == "True").set_alignment(CellAlignment::Right));
    }
    if !rest.is_empty() {
        header.push(Cell::new(format!("{} more", rest.len())).set_alignment(CellAlignment::Right));
    }
    header.push(Cell::new("PHASE"));
    table.set_header(header);
    let mut previous = "";
    for line in &picture.lines {
        let name = if line.application == previous { "" } else { &line.application };
        previous = &line.application;
        let mut row = vec![Cell::new(name), Cell::new(&line.component)];
        for (cluster, _) in shown {
            let cell = match line.cells.get(cluster) {
                Some((ready, desired)) => paint(Cell::new(format!("{ready}/{desired}")), ready == desired),
                None => Cell::new("·"),
            };
            row.push(cell.set_alignment(CellAlignment::Right));
        }
        if !rest.is_empty() {
            let others = rest.iter().filter_map(|(cluster, _)| line.cells.get(cluster));
            let (ready, desired) = others.fold((0, 0), |(a, b), (ready, desired)| (a + ready, b + desired));
            row.push(Cell::new(format!("{ready}/{desired}")).set_alignment(CellAlignment::Right));
        }
        row.push(paint(Cell::new(if name.is_empty() { "" } else { &line.phase }), line.phase == "running"));
        table.add_row(row);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(clusters: usize) -> Picture {
        let clusters = (0..clusters).map(|index| (format!("c{index}"), "True".to_owned())).collect::<Vec<_>>();
        let cells = clusters.iter().map(|(name, _)| (name.clone(), (1, 2))).collect();
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
        let text = table(&picture(1000), false);
        assert!(text.contains("992 more") && text.contains("992/1984"), "{text}");
        assert!(!table(&picture(3), false).contains("more"));
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
