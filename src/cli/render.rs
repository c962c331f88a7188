//! `hanse render`: what an Application becomes, without a hub.

use std::{io::Write, path::PathBuf, process::ExitCode};

use serde_json::{Value, json};

use crate::{
    flow::render,
    model::{Application, application::Topology},
};

use super::input;

/// Print the objects that an Application is rendered to, without a hub
#[derive(clap::Args)]
pub struct Args {
    /// The Application; - reads standard input
    #[arg(short = 'f', long = "filename", value_name = "APP.yaml")]
    filename: PathBuf,

    /// Render for this cluster, and fail if the policies do not choose it by name
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,

    /// One YAML stream, or one JSON List
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Yaml)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    Yaml,
    Json,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let checked = match input::applications(&args.filename)? {
        Ok(checked) => checked,
        Err(faults) => return Ok(refuse(&faults)),
    };
    let mut objects = Vec::new();
    for input::Checked { application, warnings } in checked {
        for warning in warnings {
            eprintln!("warning: the hub refuses this: {warning}");
        }
        let application: Application = serde_json::from_value(application)?;
        if let Some(reason) = args.cluster.as_deref().and_then(|cluster| not_for(&application, cluster)) {
            return Ok(refuse(&[reason]));
        }
        match render::render(&application, "") {
            Ok(rendered) => objects.extend(rendered.components.into_iter().flat_map(|component| component.objects)),
            Err(faults) => return Ok(refuse(&faults.iter().map(ToString::to_string).collect::<Vec<_>>())),
        }
    }
    std::io::stdout().write_all(text(&objects, args.output)?.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

pub fn refuse(faults: &[String]) -> ExitCode {
    for fault in faults {
        eprintln!("error: {fault}");
    }
    ExitCode::FAILURE
}

/// Labels of clusters are the hub's, so only names can be judged here.
fn not_for(application: &Application, cluster: &str) -> Option<String> {
    let topologies = application.spec.policies.iter().filter(|policy| policy.type_ == "topology");
    let topologies: Vec<Topology> =
        topologies.filter_map(|policy| serde_json::from_value(policy.properties.clone()).ok()).collect();
    let names = |topology: &Topology| {
        topology.cluster_label_selector.is_some() || topology.clusters.iter().any(|name| name == cluster)
    };
    let chosen = topologies.is_empty() || topologies.iter().any(names);
    (!chosen).then(|| format!("the topology of {} does not name cluster {cluster:?}", application.metadata.name))
}

fn text(objects: &[Value], output: Output) -> anyhow::Result<String> {
    match output {
        Output::Json => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            Ok(format!("{}\n", serde_json::to_string_pretty(&list)?))
        }
        Output::Yaml => {
            let documents = objects.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
            Ok(documents.iter().map(|document| format!("---\n{}\n", document.trim_end())).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_read_back_as_it_was_written() {
        let tricky = [
            "yes",
            "0755",
            "1e3",
            "null",
            "~",
            "a: b",
            "- x",
            "#x",
            "1:30",
            " x ",
            "a\nb\n",
            "\t",
            "2001-01-01",
            "=",
            "",
        ];
        let objects =
            [json!({"data": tricky, "empty": {}, "list": [], "null": null, "number": 1.5}), json!({"kind": "X"})];
        let file = tempfile::NamedTempFile::new().unwrap();
        for output in [Output::Yaml, Output::Json] {
            std::fs::write(file.path(), text(&objects, output).unwrap()).unwrap();
            assert_eq!(input::documents(file.path()).unwrap(), objects);
        }
    }

    #[test]
    fn a_cluster_that_no_topology_names_gets_nothing() {
        let policies =
            |properties: Value| json!({"spec": {"policies": [{"type": "topology", "properties": properties}]}});
        let refused = |application: Value| not_for(&serde_json::from_value(application).unwrap(), "eu").is_some();
        assert!(refused(policies(json!({"clusters": ["us"]}))));
        assert!(!refused(policies(json!({"clusters": ["us", "eu"]}))));
        assert!(!refused(policies(json!({"clusterLabelSelector": {"region": "us"}}))));
        assert!(!refused(json!({"spec": {}})));
    }
}
