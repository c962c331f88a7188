//! Tables: what `kubectl get` shows.

use serde_json::{Value, json};

use crate::{
    kinds::{Column, ColumnType, Kind},
    model::Timestamp,
};

/// What a row holds beside its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    None,
    Metadata,
    Object,
}

/// A whole Table. `columns` are left out of all but the first event of a watch.
pub fn table(
    kind: &Kind,
    metadata: Value,
    objects: &[Value],
    include: Include,
    columns: bool,
    now: Timestamp,
) -> Value {
    let definitions: Vec<_> = kind.columns.iter().filter(|_| columns).map(definition).collect();
    let rows: Vec<_> = objects.iter().map(|object| row(kind, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": if columns { json!(definitions) } else { Value::Null }, "rows": rows,
    })
}

/// Only the metadata of an object, as a PartialObjectMetadata.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.type_.name(), "format": if column.name == "Name" { "name" } else { "" },
        "description": column.description, "priority": column.priority,
    })
}

fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<_> = kind.columns.iter().map(|column| cell(column, object, now)).collect();
    match include {
        Include::None => json!({"cells": cells}),
        Include::Metadata => json!({"cells": cells, "object": partial(object)}),
        Include::Object => json!({"cells": cells, "object": object}),
    }
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match (column.type_, (column.cell)(object)) {
        (_, Value::Null) => json!("<none>"),
        (ColumnType::Date, value) => match serde_json::from_value::<Timestamp>(value) {
            Ok(then) => json!(age(now.seconds().saturating_sub(then.seconds()))),
            Err(_) => json!("<unknown>"),
        },
        (_, value) => value,
    }
}

/// A duration in the two units that matter, as kubectl's users know it (apimachinery `duration.HumanDuration`).
fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{large}{unit}"),
        rest => format!("{large}{unit}{rest}{small}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (601, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 61, "3h1m"),
            (9 * 3600 + 61, "9h"),
            (50 * 3600, "2d2h"),
            (20 * 86_400, "20d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(age(seconds), expected);
        }
    }

    #[test]
    fn a_row_has_a_cell_for_every_column_whatever_the_object_lacks() {
        for kind in kinds::all() {
            for object in [json!({}), json!({"spec": [], "status": "odd", "metadata": {"creationTimestamp": 5}})] {
                let table = table(kind, json!({}), &[object], Include::Metadata, true, Timestamp::from_seconds(0));
                let cells = table["rows"][0]["cells"].as_array().expect("cells");
                assert_eq!(Some(cells.len()), table["columnDefinitions"].as_array().map(Vec::len), "{}", kind.plural);
            }
        }
    }
}
