//! Liveness and readiness probes. The only properties that are closed: an unknown field is an error.

use serde_json::{Map, Value, json};

use super::{container::Flavour, properties::Properties};

const DEFAULTS: [(&str, i64); 5] = [
    ("initialDelaySeconds", 0),
    ("periodSeconds", 10),
    ("timeoutSeconds", 1),
    ("successThreshold", 1),
    ("failureThreshold", 3),
];
const HANDLERS: [&str; 3] = ["exec", "httpGet", "tcpSocket"];

/// As written, with all its defaults.
pub fn probe(properties: &Properties<'_>, name: &str, flavour: Flavour) -> Option<Value> {
    let probe = properties.properties(name)?;
    let known: Vec<&str> = HANDLERS.into_iter().chain(DEFAULTS.map(|(name, _)| name)).collect();
    probe.allow_only(&known);
    let mut rendered = probe.as_map().clone();
    for (name, default) in DEFAULTS {
        let seconds_or_times = probe.integer(name).unwrap_or(default);
        rendered.insert(name.to_owned(), seconds_or_times.into());
    }
    if let Some(exec) = probe.properties("exec") {
        rendered.insert("exec".into(), Value::Object(exec_handler(&exec)));
    }
    if let Some(http) = probe.properties("httpGet") {
        check_http(&http, flavour);
    }
    if let Some(tcp) = probe.properties("tcpSocket") {
        tcp.allow_only(&["port"]);
        tcp.required_integer("port");
    }
    Some(Value::Object(rendered))
}

fn exec_handler(exec: &Properties<'_>) -> Map<String, Value> {
    exec.allow_only(&["command"]);
    exec.texts("command");
    let mut rendered = exec.as_map().clone();
    rendered.entry("command").or_insert_with(|| json!([]));
    rendered
}

fn check_http(http: &Properties<'_>, flavour: Flavour) {
    match flavour {
        Flavour::Webservice => http.allow_only(&["path", "port", "httpHeaders", "host", "scheme"]),
        Flavour::Worker => http.allow_only(&["path", "port", "httpHeaders"]),
    }
    http.required_text("path");
    http.required_integer("port");
    http.text("host");
    http.text("scheme");
    for header in http.items("httpHeaders").into_iter().flatten() {
        header.allow_only(&["name", "value"]);
        header.required_text("name");
        header.required_text("value");
    }
}
