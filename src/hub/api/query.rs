//! Query parameters. What Kubernetes knows and the hub does not serve is refused; what neither knows is ignored, as
//! upstream does.

use std::time::Duration;

use http::Uri;
use serde_json::Value;

use super::{
    selector::FieldSelector,
    status::{Refusal, Result},
};
use crate::{hub::limits, kinds::Kind, model::selector::LabelSelector, store::Revision};

#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// What to do about fields that the schema does not know, and about duplicate ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Validation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Of create, update and patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: Validation,
}

/// Which state of a collection is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest; also what `resourceVersion=0` and "not older than" are answered with.
    Newest {
        least: Revision,
    },
    Exactly(Revision),
}

#[derive(Debug)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    pub limit: usize,
    pub continuation: Option<String>,
    pub at: At,
}

#[derive(Debug)]
pub struct WatchOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// Changes after this revision; absent: the present state first, then changes.
    pub from: Option<Revision>,
    pub bookmarks: bool,
    /// The present state first, closed by a bookmark that says so (watch-list).
    pub initial_events: bool,
    pub timeout: Duration,
}

impl Query {
    pub fn of(uri: &Uri) -> Result<Self> {
        let parsed = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        parsed.map(|query| Self(query.0)).map_err(|error| Refusal::bad_request(format!("the query: {error}")))
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Present and not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|text| !text.is_empty())
    }

    fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None | Some("" | "0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(false),
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(Refusal::bad_request(format!("{name}: {other:?} is neither true nor false"))),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Refusal::bad_request(format!("{name}: {text:?} is not a whole number"))),
        }
    }

    pub fn is_watch(&self) -> Result<bool> {
        self.flag("watch")
    }

    pub fn write_options(&self) -> Result<WriteOptions> {
        let validation = match self.text("fieldValidation") {
            None | Some("Warn") => Validation::Warn,
            Some("Ignore") => Validation::Ignore,
            Some("Strict") => Validation::Strict,
            Some(other) => {
                let message = format!("fieldValidation: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\"");
                return Err(Refusal::bad_request(message));
            }
        };
        if let Some(manager) = self.get("fieldManager")
            && (manager.chars().count() > 128 || manager.chars().any(char::is_control))
        {
            return Err(Refusal::bad_request("fieldManager: at most 128 printable characters"));
        }
        Ok(WriteOptions { dry_run: self.dry_run()?, validation })
    }

    pub fn dry_run(&self) -> Result<bool> {
        let mut asked = false;
        for (_, value) in self.0.iter().filter(|(key, _)| key == "dryRun") {
            match value.as_str() {
                "" => {}
                "All" => asked = true,
                other => {
                    return Err(Refusal::bad_request(format!(
                        "dryRun: {other:?}: the only supported value is \"All\""
                    )));
                }
            }
        }
        Ok(asked)
    }

    /// Selectors, alike for lists, watches and deletecollection.
    fn selectors(&self, kind: &Kind) -> Result<(LabelSelector, FieldSelector)> {
        if self.text("shardSelector").is_some() {
            return Err(Refusal::bad_request("shardSelector is not supported"));
        }
        let labels = LabelSelector::parse(self.get("labelSelector").unwrap_or_default());
        let labels = labels.map_err(|error| Refusal::bad_request(error.to_string()))?;
        Ok((labels, FieldSelector::parse(self.get("fieldSelector").unwrap_or_default(), kind)?))
    }

    pub fn list_options(&self, kind: &Kind) -> Result<ListOptions> {
        let (labels, fields) = self.selectors(kind)?;
        if self.get("sendInitialEvents").is_some() {
            return Err(Refusal::invalid_options("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
        let limit = self.number("limit")?.unwrap_or(0) as usize;
        let continuation = self.text("continue").map(str::to_owned);
        let revision = self.number("resourceVersion")?;
        let given_match = self.text("resourceVersionMatch");
        if given_match.is_some() && (revision.is_none() || continuation.is_some()) {
            let message = "resourceVersionMatch is forbidden unless resourceVersion is provided, and with continue";
            return Err(Refusal::invalid_options("resourceVersionMatch", message));
        }
        let at = match (revision, given_match) {
            (Some(0), Some("Exact")) => {
                let message = "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"";
                return Err(Refusal::invalid_options("resourceVersionMatch", message));
            }
            (Some(revision), Some("Exact")) => At::Exactly(revision),
            (Some(revision @ 1..), None) if limit > 0 => At::Exactly(revision),
            (revision, None | Some("NotOlderThan")) => At::Newest { least: revision.unwrap_or(0) },
            (_, Some(_)) => {
                let message = "supported values: \"Exact\", \"NotOlderThan\"";
                return Err(Refusal::invalid_options("resourceVersionMatch", message));
            }
        };
        Ok(ListOptions { labels, fields, limit, continuation, at })
    }

    pub fn watch_options(&self, kind: &Kind, name: Option<&str>) -> Result<WatchOptions> {
        let (labels, mut fields) = self.selectors(kind)?;
        if let Some(name) = name {
            fields.require_name(name);
        }
        let bookmarks = self.flag("allowWatchBookmarks")?;
        let initial_events = self.flag("sendInitialEvents")?;
        let given_match = self.text("resourceVersionMatch");
        if self.get("sendInitialEvents").is_some() && given_match != Some("NotOlderThan") {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Refusal::invalid_options("resourceVersionMatch", message));
        }
        if given_match.is_some() && self.get("sendInitialEvents").is_none() {
            let message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(Refusal::invalid_options("resourceVersionMatch", message));
        }
        let from = self.number("resourceVersion")?.filter(|&revision| revision > 0);
        let timeout = match self.number("timeoutSeconds")? {
            Some(seconds @ 1..) => Duration::from_secs(seconds.min(24 * 3600)),
            _ => limits::WATCH_TIMEOUT,
        };
        Ok(WatchOptions { labels, fields, from, bookmarks, initial_events, timeout })
    }

    /// What an asker of tables wants to see of the objects themselves.
    pub fn include_object(&self) -> Result<super::table::Include> {
        use super::table::Include;
        match self.text("includeObject") {
            None | Some("Metadata") => Ok(Include::Metadata),
            Some("None") => Ok(Include::None),
            Some("Object") => Ok(Include::Object),
            Some(other) => Err(Refusal::bad_request(format!("includeObject: {other:?} is not supported"))),
        }
    }
}

impl ListOptions {
    /// Whether every object of the collection is meant.
    pub fn selects_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        selects(&self.labels, &self.fields, object)
    }
}

pub fn selects(labels: &LabelSelector, fields: &FieldSelector, object: &Value) -> bool {
    fields.matches(object) && (labels.is_empty() || labels.matches(&super::selector::labels_of(object)))
}
