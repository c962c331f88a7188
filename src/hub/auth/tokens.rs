//! Bearer tokens of people and scripts: `DIR/tokens.csv`, read at start. Only digests are kept there, so the file is no
//! credential itself.

use std::collections::BTreeMap;

use crate::model::Digest;

/// By the digest of the secret: user and groups.
#[derive(Debug, Default)]
pub struct Tokens(BTreeMap<Digest, (String, Vec<String>)>);

#[derive(Debug, thiserror::Error)]
#[error("line {line} of the token file: {detail} (expected SHA-256 of the token in hex, user, groups separated by |)")]
pub struct Malformed {
    pub line: usize,
    pub detail: String,
}

impl Tokens {
    /// Lines `DIGEST,USER,GROUP|GROUP`; empty ones and those that begin with `#` are skipped.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut tokens = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = |detail: String| Malformed { line: index + 1, detail };
            let mut fields = line.split(',').map(str::trim);
            let digest = fields.next().unwrap_or_default().parse::<Digest>();
            let digest = digest.map_err(|error| malformed(error.to_string()))?;
            let user = fields.next().filter(|user| !user.is_empty()).ok_or_else(|| malformed("no user".into()))?;
            let groups = fields.next().unwrap_or_default().split('|').map(str::trim).filter(|group| !group.is_empty());
            tokens.insert(digest, (user.to_owned(), groups.map(str::to_owned).collect()));
        }
        Ok(Self(tokens))
    }

    /// Looked up by digest: how long that takes says nothing about the secret.
    pub fn find(&self, secret: &str) -> Option<(&str, &[String])> {
        let (user, groups) = self.0.get(&Digest::of(secret.as_bytes()))?;
        Some((user, groups))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faulty_line_is_named() {
        let good = Digest::of(b"x");
        for (text, line) in [(format!("{good},ann\nnonsense,bob"), 2), (format!("# who\n\n{good},"), 3)] {
            assert_eq!(Tokens::parse(&text).expect_err("faulty").line, line);
        }
        assert_eq!(Tokens::parse(&format!("{good}, ann")).expect("tokens").find("x"), Some(("ann", &[][..])));
    }
}
