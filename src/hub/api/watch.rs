//! Watch: what changed since a revision, one JSON event per line.
//!
//! An object that leaves the selection is DELETED for that watcher. Bytes are shared: an event of a watch without
//! selectors is the stored bytes with a resource version spliced in, nothing is parsed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, future::Either};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::{Instant, Interval};

use super::{
    Api,
    body::{Form, Shape},
    path::Target,
    ports::{Derived, View},
    query::{Query, WatchOptions, selects},
    read,
    status::{Refusal, Result},
    table::{self, Include},
};
use crate::{
    hub::limits,
    kinds::{Backing, Kind},
    store::{Change, Entry, List, Revision, Watch, WatchEvent, object},
};

/// How often a view is asked whether it has changed.
const VIEW_INTERVAL: Duration = Duration::from_millis(500);

pub async fn watch(api: Arc<Api>, target: &Target, query: &Query, form: Form) -> Result<Response> {
    let options = query.watch_options(target.kind, target.name.as_deref())?;
    if form.yaml {
        return Err(Refusal::not_acceptable("application/json (of a watch)"));
    }
    let slot = api.watches.clone().try_acquire_owned().map_err(|_| Refusal::too_many())?;
    let deadline = Instant::now() + options.timeout;
    let renderer = Renderer {
        kind: target.kind,
        shape: form.shape,
        include: query.include_object()?,
        api: api.clone(),
        options,
        columns_sent: false,
    };
    let lines = match target.kind.backing {
        Backing::Store => Either::Left(stored(&api, target, renderer, deadline).await?),
        Backing::View | Backing::Review(_) => {
            Either::Right(viewed(&api, target, renderer)?.take_until(tokio::time::sleep_until(deadline)))
        }
    };
    let stop = api.stop.clone().cancelled_owned();
    let lines = lines.take_until(stop).map(move |line| {
        let _held = &slot;
        Ok::<_, std::convert::Infallible>(line)
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn stored(
    api: &Api,
    target: &Target,
    mut renderer: Renderer,
    deadline: Instant,
) -> Result<impl Stream<Item = Bytes> + use<>> {
    let prefix = read::prefix(target, renderer.options.fields.name());
    let mut first = BytesMut::new();
    let wants_state = renderer.options.from.is_none() || renderer.options.initial_events;
    let from = match renderer.options.from {
        Some(from) if !wants_state => from,
        least => {
            let page = api.store.list(List { prefix: prefix.clone(), after: None, limit: 0, at: None }).await?;
            if page.revision < least.unwrap_or(0) {
                return Err(Refusal::ahead(least.unwrap_or(0), page.revision));
            }
            for entry in &page.entries {
                if renderer.selects(entry) {
                    renderer.event("ADDED", entry, entry.modified, &mut first);
                }
            }
            if renderer.options.initial_events && renderer.options.bookmarks {
                renderer.bookmark(page.revision, true, &mut first);
            }
            page.revision
        }
    };
    let changes = api.store.watch(&prefix, from).await?;
    let ticks = tokio::time::interval_at(Instant::now() + limits::BOOKMARK_INTERVAL, limits::BOOKMARK_INTERVAL);
    let following = Following { changes, renderer, ticks, deadline, seen: from, ended: false };
    let first = futures::stream::iter((!first.is_empty()).then(|| first.freeze()));
    let rest = futures::stream::unfold(following, |mut following| async move {
        let lines = following.next().await?;
        Some((lines, following))
    });
    Ok(first.chain(rest))
}

/// One watcher of the store.
struct Following {
    changes: Watch,
    renderer: Renderer,
    ticks: Interval,
    deadline: Instant,
    /// Everything up to this revision has been told.
    seen: Revision,
    ended: bool,
}

impl Following {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.is_empty() && !self.ended {
            tokio::select! {
                event = self.changes.next() => match event {
                    Some(Ok(WatchEvent::Transaction { revision, changes })) => {
                        self.seen = revision;
                        changes.iter().for_each(|change| self.renderer.change(change, revision, &mut out));
                    }
                    Some(Ok(WatchEvent::Progress(revision))) => self.seen = self.seen.max(revision),
                    Some(Err(error)) => {
                        put_line("ERROR", &Refusal::from(error).body().to_string().into(), &mut out);
                        self.ended = true;
                    }
                    None => self.ended = true,
                },
                _ = self.ticks.tick(), if self.renderer.options.bookmarks => {
                    self.renderer.bookmark(self.seen, false, &mut out);
                }
                () = tokio::time::sleep_until(self.deadline) => {
                    // The last word says where to take up again.
                    if self.renderer.options.bookmarks {
                        self.renderer.bookmark(self.seen, false, &mut out);
                    }
                    self.ended = true;
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// A view has no history: it is asked again and again, and what differs is told.
fn viewed(api: &Api, target: &Target, mut renderer: Renderer) -> Result<impl Stream<Item = Bytes> + use<>> {
    let view = api.view(target.kind);
    let view = view.ok_or_else(|| Refusal::unavailable(format!("{} are not ready yet", target.kind.plural)))?;
    let namespace = target.namespace.clone();
    let (mut seen, mut known) = snapshot(&*view, namespace.as_deref(), &renderer);
    let mut first = BytesMut::new();
    match renderer.options.from {
        Some(from) if !renderer.options.initial_events && from < seen => {
            return Err(Refusal::expired("a view is only known as it is now: list it again"));
        }
        Some(_) if !renderer.options.initial_events => {}
        _ => {
            known.values().for_each(|object| renderer.value("ADDED", object.clone(), &mut first));
            if renderer.options.initial_events && renderer.options.bookmarks {
                renderer.bookmark(seen, true, &mut first);
            }
        }
    }
    Ok(async_stream(move |send| async move {
        if !first.is_empty() && send.send(first.freeze()).await.is_err() {
            return;
        }
        let mut since_bookmark = Instant::now();
        while !send.is_closed() {
            tokio::time::sleep(VIEW_INTERVAL).await;
            let mut out = BytesMut::new();
            if view.revision() != seen {
                let (revision, current) = snapshot(&*view, namespace.as_deref(), &renderer);
                for (name, object) in &current {
                    match known.remove(name) {
                        None => renderer.value("ADDED", object.clone(), &mut out),
                        Some(before) if before != *object => renderer.value("MODIFIED", object.clone(), &mut out),
                        Some(_) => {}
                    }
                }
                for mut gone in std::mem::take(&mut known).into_values() {
                    object::set_resource_version(&mut gone, revision);
                    renderer.value("DELETED", gone, &mut out);
                }
                (seen, known) = (revision, current);
            }
            if renderer.options.bookmarks && since_bookmark.elapsed() >= limits::BOOKMARK_INTERVAL {
                since_bookmark = Instant::now();
                renderer.bookmark(seen, false, &mut out);
            }
            if !out.is_empty() && send.send(out.freeze()).await.is_err() {
                return;
            }
        }
    }))
}

type Names = BTreeMap<(String, String), Value>;

fn snapshot(view: &dyn View, namespace: Option<&str>, renderer: &Renderer) -> (Revision, Names) {
    let (revision, objects) = view.list(namespace);
    let named = |derived: Derived| {
        let object = super::views::with_revision(derived);
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        ((text("namespace"), text("name")), object)
    };
    let chosen = objects.into_iter().map(named).filter(|(_, object)| renderer.matches(object));
    (revision, chosen.collect())
}

/// A stream fed by a task that ends with its reader.
fn async_stream<F, T>(feed: F) -> impl Stream<Item = Bytes>
where
    F: FnOnce(tokio::sync::mpsc::Sender<Bytes>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let (send, receive) = tokio::sync::mpsc::channel(4);
    tokio::spawn(feed(send));
    tokio_stream::wrappers::ReceiverStream::new(receive)
}

/// Turns changes into lines for one watcher.
struct Renderer {
    kind: &'static Kind,
    shape: Shape,
    include: Include,
    api: Arc<Api>,
    options: WatchOptions,
    /// A Table's columns are sent with its first event only.
    columns_sent: bool,
}

impl Renderer {
    fn is_selective(&self) -> bool {
        !self.options.labels.is_empty() || !self.options.fields.is_empty()
    }

    fn matches(&self, object: &Value) -> bool {
        selects(&self.options.labels, &self.options.fields, object)
    }

    fn selects(&self, entry: &Entry) -> bool {
        !self.is_selective() || object::decode(&entry.value).is_ok_and(|object| self.matches(&object))
    }

    fn change(&mut self, change: &Change, revision: Revision, out: &mut BytesMut) {
        let before = change.previous.as_ref().filter(|entry| self.selects(entry));
        let after = change.current.as_ref().filter(|entry| self.selects(entry));
        match (before, after) {
            (None, None) => {}
            (None, Some(entry)) => self.event("ADDED", entry, revision, out),
            (Some(_), Some(entry)) => self.event("MODIFIED", entry, revision, out),
            // Its last matching state, with the revision of the change that took it away.
            (Some(entry), None) => self.event("DELETED", entry, revision, out),
        }
    }

    fn event(&mut self, type_: &str, entry: &Entry, revision: Revision, out: &mut BytesMut) {
        if self.shape == Shape::Whole {
            match object::with_resource_version(&entry.value, revision) {
                Ok(bytes) => put_line(type_, &bytes, out),
                Err(error) => tracing::error!(key = %entry.key, %error, "cannot read a stored object"),
            }
            return;
        }
        match object::decode(&entry.value) {
            Ok(mut object) => {
                object::set_resource_version(&mut object, revision);
                self.value(type_, object, out);
            }
            Err(error) => tracing::error!(key = %entry.key, %error, "cannot read a stored object"),
        }
    }

    fn value(&mut self, type_: &str, object: Value, out: &mut BytesMut) {
        let value = match self.shape {
            Shape::Whole => object,
            Shape::Metadata => table::partial(&object),
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                table::table(self.kind, metadata, &[object], self.include, columns, self.api.now())
            }
        };
        put_line(type_, &value.to_string().into(), out);
    }

    /// Says how far the watcher has seen, and at the end of the initial state that this was it.
    fn bookmark(&mut self, revision: Revision, initial_events_end: bool, out: &mut BytesMut) {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.shape {
            Shape::Whole => json!({
                "kind": self.kind.gvk.kind, "apiVersion": self.kind.gvk.api_version(), "metadata": metadata,
            }),
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table => {
                // A row that holds nothing but the bookmark: its object carries the revision and the annotation.
                let bookmark = json!({"kind": self.kind.gvk.kind, "apiVersion": self.kind.gvk.api_version(), "metadata": metadata});
                let list_metadata = json!({"resourceVersion": revision.to_string()});
                table::table(self.kind, list_metadata, &[bookmark], self.include, false, self.api.now())
            }
        };
        put_line("BOOKMARK", &object.to_string().into(), out);
    }
}

fn put_line(type_: &str, object: &Bytes, out: &mut BytesMut) {
    out.reserve(object.len() + 40);
    out.put_slice(br#"{"type":""#);
    out.put_slice(type_.as_bytes());
    out.put_slice(br#"","object":"#);
    out.put_slice(object);
    out.put_slice(b"}\n");
}
