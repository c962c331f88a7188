//! Expressions: clusters chosen by CEL over what the hub knows of them.
//!
//! Owns: which expressions are admitted, and what they see. An expression may compare and compute; it may not loop (the
//! macros over lists are refused), so its cost is bounded by its size. Must never: bring anything down; whatever goes wrong
//! in one cluster is a reason on that cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use cel::{
    Context, Env, Program, Value,
    common::ast::{Expr, IdedExpr, LiteralValue},
};

use super::fleet::Candidate;
use crate::model::cluster::Property;

pub const BYTES_MAX: usize = 1024;
const NODES_MAX: usize = 256;
const DEPTH_MAX: usize = 24;

/// What an expression may ask by name.
const VARIABLES: [&str; 4] = ["free", "labels", "name", "properties"];
/// Functions, and operators as the parser names them.
const FUNCTIONS: [&str; 29] = [
    "!_",
    "-_",
    "@in",
    "@not_strictly_false",
    "_!=_",
    "_%_",
    "_&&_",
    "_*_",
    "_+_",
    "_-_",
    "_/_",
    "_<=_",
    "_<_",
    "_==_",
    "_>=_",
    "_>_",
    "_?_:_",
    "_[_]",
    "_||_",
    "contains",
    "double",
    "endsWith",
    "has",
    "int",
    "max",
    "min",
    "size",
    "startsWith",
    "string",
];

/// An expression that has been checked.
#[derive(Clone)]
pub struct Expression {
    program: Arc<Program>,
    env: Arc<Env>,
    text: String,
    /// Resources whose free amounts it asks for.
    resources: BTreeSet<String>,
}

/// What is known of an expression while it is walked.
#[derive(Default)]
struct Walk {
    nodes: usize,
    resources: BTreeSet<String>,
}

impl Expression {
    /// The error says what is wrong with it, for people.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("an expression says nothing".into());
        }
        if text.len() > BYTES_MAX {
            return Err(format!("{} bytes; at most {BYTES_MAX}", text.len()));
        }
        // The parser descends with every bracket, sign and question mark: what is too deep is not given to it.
        if nesting(text) > DEPTH_MAX {
            return Err(format!("nested deeper than {DEPTH_MAX}"));
        }
        let parsed = catch_unwind(|| Program::compile(text)).map_err(|_| "cannot be read".to_owned())?;
        let program = parsed.map_err(|error| first_line(&error.to_string()))?;
        let mut walk = Walk::default();
        walk.visit(program.expression(), 0)?;
        Ok(Self {
            program: Arc::new(program),
            env: Arc::new(Env::stdlib()),
            text: text.to_owned(),
            resources: walk.resources,
        })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether what it says of a cluster changes with the cluster's room.
    pub fn reads_room(&self) -> bool {
        !self.resources.is_empty()
    }

    /// Whether it holds for a cluster, or why nobody can tell.
    pub fn holds(&self, cluster: &Candidate) -> Result<bool, String> {
        match self.value(cluster)? {
            Value::Bool(holds) => Ok(holds),
            other => Err(format!("it is of type {}, not true or false", other.type_of())),
        }
    }

    /// The whole number that it gives for a cluster, or why nobody can tell.
    pub fn number(&self, cluster: &Candidate) -> Result<i64, String> {
        match self.value(cluster)? {
            Value::Int(number) => Ok(number),
            Value::UInt(number) => i64::try_from(number).map_err(|_| format!("{number} is too large")),
            // What is no number at all is no whole one either.
            Value::Float(number) if number.is_finite() => Ok(number.round() as i64),
            Value::Float(number) => Err(format!("{number} is no number")),
            other => Err(format!("it is of type {}, not a number", other.type_of())),
        }
    }

    fn value(&self, cluster: &Candidate) -> Result<Value, String> {
        let free = |resource: &String| {
            let amount = cluster.room.as_ref().map_or(0, |room| room.free(resource));
            (resource.clone(), Value::Int(amount))
        };
        let property = |(name, value): (&String, &Property)| {
            let value = match value {
                Property::Integer(number) => Value::Int(*number),
                Property::Text(text) => Value::from(text.as_str()),
            };
            (name.clone(), value)
        };
        let label = |(key, value): (&String, &String)| (key.clone(), Value::from(value.as_str()));
        let mut context = Context::with_env(self.env.clone());
        context.add_variable_from_value("name", cluster.name.as_str());
        context.add_variable_from_value("labels", map(cluster.labels.iter().map(label)));
        context.add_variable_from_value("properties", map(cluster.properties.iter().map(property)));
        context.add_variable_from_value("free", map(self.resources.iter().map(free)));
        match catch_unwind(AssertUnwindSafe(|| self.program.execute(&context))) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(first_line(&error.to_string())),
            Err(_) => Err("it cannot be worked out".into()),
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({})", self.text)
    }
}

fn map(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let entries: BTreeMap<cel::objects::Key, Value> = entries.map(|(key, value)| (key.into(), value)).collect();
    Value::Map(cel::objects::Map { map: Arc::new(entries.into_iter().collect()) })
}

impl Walk {
    fn visit(&mut self, node: &IdedExpr, depth: usize) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            return Err(format!("more than {NODES_MAX} parts, or nested deeper than {DEPTH_MAX}"));
        }
        match &node.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if VARIABLES.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) => Err(format!("{name:?} is not known; {} are", VARIABLES.join(", "))),
            Expr::Select(select) => {
                self.note(&select.operand, &select.field);
                self.visit(&select.operand, depth + 1)
            }
            Expr::Call(call) => {
                if !FUNCTIONS.contains(&call.func_name.as_str()) {
                    return Err(format!("the function {:?} is not there", call.func_name));
                }
                if let ("_[_]", [map, IdedExpr { expr: Expr::Literal(LiteralValue::String(key)), .. }]) =
                    (call.func_name.as_str(), &call.args[..])
                {
                    self.note(map, key.inner());
                }
                call.target.as_deref().into_iter().chain(&call.args).try_for_each(|part| self.visit(part, depth + 1))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element, depth + 1)),
            Expr::Comprehension(_) => {
                Err("all, exists, map and filter are not there: an expression may not loop".into())
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => Err("maps and messages cannot be made here".into()),
        }
    }

    fn note(&mut self, map: &IdedExpr, key: &str) {
        if matches!(&map.expr, Expr::Ident(name) if name == "free") {
            self.resources.insert(key.to_owned());
        }
    }
}

/// An upper bound of how deep the parser has to go.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut prefixes) = (0usize, 0, 0usize);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '!' | '-' | '?' => prefixes += 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest + prefixes / 8
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Resources, Sketch, quantity::CPU, sketch::Shape};

    fn cluster() -> Candidate {
        let shape = Shape { count: 2, free: Resources::of([(CPU, 3000)]), ..Shape::default() };
        let sketch = Sketch { shapes: vec![shape], ..Sketch::default() };
        let properties =
            [("cost".to_owned(), Property::Integer(3)), ("tier".to_owned(), Property::Text("gold".to_owned()))];
        Candidate {
            name: "eu-1".into(),
            labels: [("example.com/ring".to_owned(), "2".to_owned())].into(),
            properties: properties.into(),
            room: Some(super::super::Room::of(&sketch)),
            ..Candidate::default()
        }
    }

    #[test]
    fn an_expression_sees_what_the_hub_knows() {
        for (text, expected) in [
            (r#"properties.tier == "gold" && properties.cost < 5"#, Ok(true)),
            (r#"labels["example.com/ring"] in ["1", "2"]"#, Ok(true)),
            (r#"int(labels["example.com/ring"]) * 2 + 1 == 5"#, Ok(true)),
            (r#"name.startsWith("us")"#, Ok(false)),
            ("free.cpu >= 6000", Ok(true)),
            (r#"free["nvidia.com/gpu"] > 0 ? true : has(labels.spot)"#, Ok(false)),
            ("!(\"spot\" in labels)", Ok(true)),
        ] {
            let expression = Expression::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(expression.holds(&cluster()), expected, "{text}");
            assert_eq!(expression.reads_room(), text.contains("free"));
        }
    }

    #[test]
    fn a_fault_is_a_reason_and_no_crash() {
        for text in [
            "labels.nobody == \"x\"",
            "properties.cost / 0 == 1",
            "properties.cost",
            "properties.tier > 3",
            "9223372036854775807 + properties.cost > 0",
            "-9223372036854775808 / -1 > 0",
            "int(properties.tier) == 1",
        ] {
            let expression = Expression::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert!(expression.holds(&cluster()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_faulty_or_costly_is_not_admitted() {
        let deep = format!("{}true{}", "(".repeat(500), ")".repeat(500));
        let long = format!("true {}", "|| true ".repeat(200));
        let wide = format!("1 in [{}]", vec!["1"; 400].join(","));
        let signs = format!("{}true", "!".repeat(900));
        for text in [
            "",
            "labels.",
            "name ==",
            "cluster.name == \"x\"",
            "labels.exists(key, key == \"a\")",
            "[1, 2].map(x, x * 2) == [2, 4]",
            "name.matches(\"(a*)*b\")",
            "system(\"x\") == 1",
            "{\"a\": 1}.a == 1",
            &deep,
            &long,
            &wide,
            &signs,
            "\u{0}",
            "'\\u{110000}'",
        ] {
            assert!(Expression::read(text).is_err(), "{}", text.chars().take(60).collect::<String>());
        }
    }
}
