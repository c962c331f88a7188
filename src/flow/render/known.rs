//! Names that were written, against names that are known: the words in which an unknown one is refused.

/// `unknown trait type "scalar"; did you mean "scaler"? known: "annotations", "labels", "scaler"`
pub fn unknown(noun: &str, written: &str, known: &[&str]) -> String {
    let shown: String = written.chars().take(SHOWN_MAX).collect();
    let list = known.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match nearest(&shown, known) {
        Some(meant) => format!("unknown {noun} {shown:?}; did you mean {meant:?}? known: {list}"),
        None => format!("unknown {noun} {shown:?}; known: {list}"),
    }
}

/// Characters of a name that an error repeats.
const SHOWN_MAX: usize = 64;

/// The known name that takes fewest edits, if that is at most a third of its length.
fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    let edits = |name: &&&str| edit_distance(&written.to_lowercase(), name);
    let best = known.iter().filter(|name| !name.is_empty()).min_by_key(edits)?;
    (edits(&best) <= best.len() / 3).then_some(best)
}

/// Levenshtein's distance, row by row.
fn edit_distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (deleted, from) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], deleted + 1);
        for (index, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[index + 1];
            row[index + 1] = replaced.min(diagonal + 1).min(row[index] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_a_different_word_is_not() {
        let known = ["k8s-objects", "webservice", "worker"];
        for (written, meant) in [
            ("webservce", Some("webservice")),
            ("WebService", Some("webservice")),
            ("k8s-object", Some("k8s-objects")),
            ("workers", Some("worker")),
            ("submarine", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
    }

    #[test]
    fn a_refusal_lists_what_there_is_and_repeats_no_more_than_a_line() {
        assert_eq!(unknown("trait type", "gateway", &["labels"]), r#"unknown trait type "gateway"; known: "labels""#);
        assert!(unknown("trait type", &"x".repeat(100_000), &["labels"]).len() < 200);
    }
}
