//! Ports of a webservice, as its container and its Service show them.

use serde_json::{Value, json};

use super::properties::Properties;

pub struct Port<'a> {
    port: i64,
    container_port: i64,
    name: String,
    protocol: &'a str,
    node_port: Option<i64>,
    pub expose: bool,
}

/// `None` where the property is not given; an empty list is given.
pub fn read<'a>(properties: &Properties<'a>) -> Option<Vec<Port<'a>>> {
    Some(properties.items("ports")?.iter().map(read_port).collect())
}

fn read_port<'a>(properties: &Properties<'a>) -> Port<'a> {
    let port = properties.required_integer("port");
    let container_port = properties.integer("containerPort").unwrap_or(port);
    let protocol = properties.choice("protocol", &["SCTP", "TCP", "UDP"]).unwrap_or("TCP");
    let name = properties.text("name").map_or_else(|| default_name(container_port, protocol), str::to_owned);
    let node_port = properties.integer("nodePort");
    let expose = properties.flag("expose").unwrap_or(false);
    Port { port, container_port, name, protocol, node_port, expose }
}

fn default_name(container_port: i64, protocol: &str) -> String {
    match protocol {
        "TCP" => format!("port-{container_port}"),
        other => format!("port-{container_port}-{}", other.to_lowercase()),
    }
}

impl Port<'_> {
    pub fn of_container(&self) -> Value {
        json!({"containerPort": self.container_port, "name": self.name, "protocol": self.protocol})
    }

    pub fn of_service(&self, expose_type: &str) -> Value {
        let mut port = json!({
            "name": self.name,
            "port": self.port,
            "protocol": self.protocol,
            "targetPort": self.container_port,
        });
        if let Some(node_port) = self.node_port.filter(|_| expose_type == "NodePort") {
            port["nodePort"] = node_port.into();
        }
        port
    }
}
