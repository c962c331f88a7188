//! Kubernetes objects from a file or from standard input, as kubectl reads them.

use std::{io::Read, path::Path};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    flow::admit,
    kinds::{self, strict},
    model::FieldError,
};

/// A manifest and a fleet are far smaller; what is larger is a mistake.
const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Every document of a YAML stream (JSON is YAML), without empty ones; the items of a List count each. Depth, aliases
/// and anchors are bounded by the parser's defaults. Bare `yes`, `no`, `on`, `off` are booleans and `0755` is octal,
/// as in YAML 1.1 and so for kubectl; of two equal keys the file is refused.
pub fn documents(path: &Path) -> anyhow::Result<Vec<Value>> {
    let shown = path.display();
    let text = read(path).with_context(|| format!("cannot read {shown}"))?;
    let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
        .map_err(|error| anyhow::anyhow!("{error}"))
        .with_context(|| format!("{shown} is not valid YAML"))?;
    let mut found = Vec::new();
    for mut document in documents {
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if document["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                found.extend(items);
            }
            Some(items) => {
                document["items"] = items;
                found.push(document);
            }
            None if document.is_null() => {}
            None => found.push(document),
        }
    }
    if found.is_empty() {
        bail!("{shown} holds no object");
    }
    Ok(found)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(std::io::stdin()) } else { Box::new(std::fs::File::open(path)?) };
    source.take(INPUT_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > INPUT_BYTES_MAX {
        bail!("it is larger than {INPUT_BYTES_MAX} bytes");
    }
    Ok(text)
}

/// An Application that the hub would take, or take but for what is not there yet.
pub struct Checked {
    pub application: Value,
    /// What the hub refuses although it does not change what is rendered.
    pub warnings: Vec<FieldError>,
}

/// The Applications of a file; `Err` lists everything that is wrong with the first faulty one.
pub fn applications(path: &Path) -> anyhow::Result<Result<Vec<Checked>, Vec<String>>> {
    let mut checked = Vec::new();
    for mut document in documents(path)? {
        let kind = &*kinds::APPLICATION;
        if document["apiVersion"] != kind.gvk.api_version().as_str() || document["kind"] != kind.gvk.kind.as_str() {
            let (api_version, name) = (&document["apiVersion"], &document["kind"]);
            bail!("{} holds apiVersion {api_version}, kind {name}; expected {}", path.display(), kind.gvk);
        }
        let unknown = strict::unknown_fields(&kind.schema, &document, admit::FAULTS_MAX);
        // As the hub does before it validates: a null stands for an absent field.
        kind.schema.normalise(&mut document);
        let mut faults = kind.schema.validate(&document, admit::FAULTS_MAX);
        let by_schema: Vec<_> = faults.iter().map(|fault| fault.path.clone()).collect();
        faults.extend(admit::faults(&document).into_iter().filter(|fault| !by_schema.contains(&fault.path)));
        if !faults.is_empty() || !unknown.is_empty() {
            let faults = faults.iter().map(ToString::to_string);
            return Ok(Err(unknown.iter().map(ToString::to_string).chain(faults).collect()));
        }
        let warnings = admit::not_there_yet(&document);
        checked.push(Checked { application: document, warnings });
    }
    Ok(Ok(checked))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn read_text(text: &str) -> Result<Vec<Value>, String> {
        documents(file(text).path()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn documents_are_read_as_kubectl_reads_them() {
        let stream =
            "a: yes\nb: 'yes'\nc: 0755\nd: \"1\"\n---\n# nothing\n---\nkind: PodList\nitems: [{e: 1}, {f: off}]\n";
        let expected = [json!({"a": true, "b": "yes", "c": 493, "d": "1"}), json!({"e": 1}), json!({"f": false})];
        assert_eq!(read_text(stream).unwrap(), expected);
        assert_eq!(read_text(r#"{"kind": "X", "items": [1]}"#).unwrap(), [json!({"kind": "X", "items": [1]})]);
    }

    #[test]
    fn what_is_no_yaml_or_says_nothing_is_refused() {
        let bomb = format!("a: &a [{}]\n", "x, ".repeat(9));
        let bomb = (0..12).fold(bomb, |text, level| {
            let (below, above) = ((b'a' + level) as char, (b'b' + level) as char);
            format!("{text}{above}: &{above} [{}]\n", format!("*{below}, ").repeat(9))
        });
        for text in ["", "---\n", "a: b: c", "a: [1", "a: 1\na: 2", &"[".repeat(100_000), &bomb] {
            assert!(read_text(text).is_err(), "{}", &text[..text.len().min(80)]);
        }
        assert!(documents(Path::new("/nowhere/app.yaml")).is_err());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let text = "apiVersion: core.oam.dev/v1beta1\nkind: Application\nmetadata: {name: a}\nspec:\n  componets: []\n  \
                    components: [{name: a, type: worker, properties: {image: 5}}, {name: b, type: wroker}]\n";
        let faults = applications(file(text).path()).unwrap().err().unwrap();
        assert_eq!(faults.len(), 3, "{faults:?}");
        let other = applications(file("apiVersion: v1\nkind: Pod").path()).err().unwrap().to_string();
        assert!(other.contains("expected core.oam.dev/v1beta1 Application"), "{other}");
    }

    #[test]
    fn the_examples_are_sound() {
        for name in ["hello", "shop", "everywhere", "raw"] {
            let path = format!("{}/docs/examples/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
            let checked = applications(Path::new(&path)).unwrap().unwrap();
            assert!(matches!(&checked[..], [one] if one.warnings.is_empty()), "{name}");
        }
    }
}
