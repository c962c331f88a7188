//! Tests that read the source: the dependency table of `lib.rs` and the purity of the pure modules stay true.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Who may use whom: `use crate::` and every other `crate::` path. The same table stands in `lib.rs` for people.
const TABLE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("kinds", &["model"]),
    ("flow", &["kinds", "model"]),
    ("store", &["model"]),
    ("wire", &["model"]),
    ("hub", &["flow", "kinds", "model", "store", "wire"]),
    ("agent", &["flow", "kinds", "model", "wire"]),
    ("sim", &["agent", "flow", "hub", "kinds", "model", "store", "wire"]),
    ("cli", &["agent", "flow", "hub", "kinds", "model", "store", "wire"]),
];

/// Files that may use `sim`, besides `sim` itself: simulated members are shown and measured, never depended on.
const USES_SIM: &[&str] = &["cli/quickstart", "cli/bench"];

const PURE: &[&str] = &["model", "kinds", "flow"];

/// What a pure module may not even name.
const IMPURE: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "tokio",
    "futures::",
    "tracing",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "new_v4",
    "rand::",
    "HashMap",
    "HashSet",
    "println!",
];

fn sources(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![below.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a readable source tree") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Lines of code with their numbers: no comments, and nothing from the first `#[cfg(test)] mod` on (tests may use
/// what they need).
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let tests = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..tests].lines().enumerate();
    lines.filter(|(_, line)| !line.trim_start().starts_with("//")).map(|(index, line)| (index + 1, line))
}

/// Modules of this crate that a line names, written `crate::x` or `crate::{x, y::z}` on one line.
fn named(line: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => modules.insert(word(rest)),
            Some(list) => {
                let mut depth = 0;
                for part in list.split_inclusive(['{', '}', ',']) {
                    if depth == 0 {
                        modules.insert(word(part.trim()));
                    }
                    depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
                }
                true
            }
        };
    }
    modules.remove("");
    modules
}

/// Joins `use crate::{` lists that rustfmt broke over several lines.
fn joined(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut open = 0;
    for (number, line) in code(text) {
        match lines.last_mut().filter(|_| open > 0) {
            Some((_, last)) => last.push_str(line.trim()),
            None if line.contains("crate::{") => lines.push((number, line.trim().to_owned())),
            None => {
                lines.push((number, line.to_owned()));
                continue;
            }
        }
        open += line.matches('{').count() as i32 - line.matches('}').count() as i32;
    }
    lines
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for (module, allowed) in TABLE {
        for path in sources(&root()).into_iter().filter(|path| module_of(path).as_deref() == Some(module)) {
            let file = path.strip_prefix(root()).expect("below src").display().to_string();
            for (number, line) in joined(&fs::read_to_string(&path).expect("a readable source file")) {
                for used in named(&line) {
                    let known = TABLE.iter().any(|(name, _)| *name == used) || used == "sim";
                    let may = used == *module
                        || allowed.contains(&used.as_str())
                        || (used == "sim" && USES_SIM.iter().any(|prefix| file.starts_with(prefix)));
                    if known && !may {
                        broken.push(format!("{file}:{number}: {module} must not use {used}: {}", line.trim()));
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "the dependency table is broken:\n{}", broken.join("\n"));
}

fn module_of(path: &Path) -> Option<String> {
    let first = path.strip_prefix(root()).ok()?.components().next()?;
    Some(first.as_os_str().to_str()?.trim_end_matches(".rs").to_owned())
}

#[test]
fn pure_modules_name_nothing_impure() {
    let mut broken = Vec::new();
    for module in PURE {
        for path in sources(&root().join(module)) {
            let text = fs::read_to_string(&path).expect("a readable source file");
            for (number, line) in code(&text) {
                for word in IMPURE.iter().filter(|word| line.contains(*word)) {
                    broken.push(format!("{}:{number}: names {word:?}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "pure modules must stay pure:\n{}", broken.join("\n"));
}

#[test]
fn pure_modules_deny_the_impure_calls_to_clippy_too() {
    for module in PURE {
        let text = fs::read_to_string(root().join(module).join("mod.rs")).expect("a pure module has a mod.rs");
        let lint = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";
        assert!(text.contains(lint), "src/{module}/mod.rs lost {lint}");
    }
}

#[test]
fn every_module_has_its_row_in_the_table() {
    let text = fs::read_to_string(root().join("lib.rs")).expect("lib.rs");
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")).map(|name| name.trim_end_matches(';'));
    let missing: Vec<_> = declared.filter(|name| !TABLE.iter().any(|(row, _)| row == name)).collect();
    assert!(missing.is_empty(), "no row in the dependency table for {missing:?}");
}

/// Rules of `docs/architecture.md` that guard failover and fencing, which are not there yet.
const RULES_TO_COME: &[u32] = &[3, 4, 5];

#[test]
fn every_rule_that_never_breaks_has_its_named_test() {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let files: Vec<_> = sources(&root()).into_iter().chain(sources(&e2e)).collect();
    let text: String = files.iter().map(|path| fs::read_to_string(path).expect("a readable source file")).collect();
    let has_test = |rule: &u32| text.contains(&format!("fn rule_{rule:02}_"));
    let without: Vec<_> = (1..=16).filter(|rule| !RULES_TO_COME.contains(rule) && !has_test(rule)).collect();
    assert!(without.is_empty(), "no test is named after rule {without:?}");
}

#[test]
fn files_that_the_documents_name_exist() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![repository.join("README.md"), repository.join("CONTRIBUTING.md")];
    documents.extend(fs::read_dir(repository.join("docs")).into_iter().flatten().flatten().map(|entry| entry.path()));
    let mut missing = Vec::new();
    for document in documents.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&document).expect("a readable document");
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_path =
                ["src/", "docs/", "deploy/", "e2e/", "proto/", "testdata/"].iter().any(|top| quoted.starts_with(top))
                    && !quoted.contains([' ', '*', '<', '{', '…']);
            if is_path && !repository.join(quoted.trim_end_matches('/')).exists() {
                missing.push(format!("{}: {quoted}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "documents name files that are gone:\n{}", missing.join("\n"));
}

#[test]
fn the_table_reader_sees_nested_and_broken_lists() {
    let text = "use crate::{\n    hub::{api, store},\n    model::Uid,\n};\nlet x = crate::sim::member();\n";
    let modules: BTreeSet<_> = joined(text).iter().flat_map(|(_, line)| named(line)).collect();
    assert_eq!(modules, ["hub", "model", "sim"].map(str::to_owned).into());
}
