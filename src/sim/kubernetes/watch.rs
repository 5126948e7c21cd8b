//! Watches: the changes of one resource, as a stream of lines.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    metadata::field,
    model::Model,
    operations::home,
    refusal::{Cause, Refusal},
    request::Query,
    resource::Resource,
    router::Projection,
    selector::Selector,
    store::{Change, Object},
};

/// How often a quiet watch that asks for bookmarks hears the version it is at.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts whose caller does not say: a real server draws from 30 to 60 minutes.
const LASTS_AT_LEAST: u64 = 1800;

/// One open watch.
pub(super) struct Watch {
    model: Model,
    resource: &'static Resource,
    namespace: String,
    selector: Selector,
    projection: Projection,
    /// Who watches.
    who: String,
    revision: u64,
    changed: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    ends: Instant,
    bookmark: Option<Instant>,
    ready: VecDeque<Bytes>,
    over: bool,
}

impl Watch {
    pub(super) fn open(
        model: &Model,
        resource: &'static Resource,
        namespace: &str,
        query: &Query,
        projection: Projection,
        who: &str,
    ) -> Result<Self, Refusal> {
        let selector = query.selector(resource)?;
        let initial = query.flag("sendInitialEvents");
        if initial && query.get("resourceVersionMatch") != "NotOlderThan" {
            let cause = Cause::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return Err(Refusal::invalid_as("meta.k8s.io", "ListOptions", "", &[cause]));
        }
        let wanted = match query.get("resourceVersion") {
            "" | "0" => None,
            text => Some(text.parse().map_err(|_| bad_version(text))?),
        };
        let home = home(resource);
        let mut state = model.state();
        let seconds = query
            .number("timeoutSeconds")
            .unwrap_or_else(|| LASTS_AT_LEAST + state.operations.rng.u64(..LASTS_AT_LEAST));
        let now = model.instant();
        let bookmarks = query.flag("allowWatchBookmarks");
        let changed = state
            .operations
            .store
            .subscribe(home)
            .ok_or_else(Refusal::no_such_resource)?;
        let current = state.operations.store.revision();
        let everything: Vec<Object> = if initial || wanted.is_none() {
            let namespace = (!namespace.is_empty()).then_some(namespace);
            state.operations.store.list(home, namespace, None).cloned().collect()
        } else {
            Vec::new()
        };
        drop(state);
        let mut watch = Self {
            model: model.clone(),
            resource,
            namespace: namespace.to_owned(),
            selector,
            projection,
            who: who.to_owned(),
            revision: if initial { current } else { wanted.unwrap_or(current) },
            changed,
            cuts: model.cuts(),
            ends: now + Duration::from_secs(seconds),
            bookmark: bookmarks.then(|| now + BOOKMARK_EVERY),
            ready: VecDeque::new(),
            over: false,
        };
        for object in &everything {
            if watch.selector.matches(object) {
                watch.push("ADDED", object);
            }
        }
        if initial && bookmarks {
            watch.push_bookmark(true);
        }
        Ok(watch)
    }

    /// The body of the answer: one JSON object a line, until the time is up.
    pub(super) fn into_lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(self, |mut watch| async move {
            watch.next_line().await.map(|line| (Ok(line), watch))
        })
    }

    async fn next_line(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            self.read_changes();
            if !self.ready.is_empty() {
                continue;
            }
            let bookmark = self.bookmark.unwrap_or(self.ends);
            tokio::select! {
                biased;
                _ = self.cuts.changed() => return None,
                result = self.changed.changed() => {
                    if result.is_err() {
                        return None;
                    }
                    if let Some(delay) = self.model.events_after(&self.who) {
                        tokio::select! {
                            biased;
                            _ = self.cuts.changed() => return None,
                            () = sleep_until(self.ends) => return None,
                            () = tokio::time::sleep(delay) => {}
                        }
                    }
                }
                () = sleep_until(self.ends) => return None,
                () = sleep_until(bookmark) => {
                    self.push_bookmark(false);
                    self.bookmark = Some(bookmark + BOOKMARK_EVERY);
                }
            }
        }
    }

    fn read_changes(&mut self) {
        let home = home(self.resource);
        let changes = self.model.state().operations.store.since(home, self.revision);
        match changes {
            Ok(changes) => {
                for change in changes {
                    self.revision = change.revision;
                    self.push_change(&change);
                }
            }
            Err(compacted) => {
                let message = format!("too old resource version: {} ({})", self.revision, compacted.oldest);
                let status = Refusal::expired(message).to_status();
                self.push_line(&json!({"type": "ERROR", "object": status}));
                self.over = true;
            }
        }
    }

    /// To a selective watch an object comes and goes as it starts and ceases to match.
    fn push_change(&mut self, change: &Change) {
        if !self.namespace.is_empty() && field(&change.object, "namespace") != self.namespace {
            return;
        }
        let matched = change.before.as_ref().is_some_and(|b| self.selector.matches(b));
        let matches = !change.deleted && self.selector.matches(&change.object);
        let kind = match (matched, matches) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return,
        };
        self.push(kind, &change.object);
    }

    fn push(&mut self, kind: &str, stored: &Object) {
        let shown = self.model.state().operations.shown(self.resource, stored);
        let object = self.projection.object(shown);
        self.push_line(&json!({"type": kind, "object": object}));
    }

    fn push_bookmark(&mut self, end_of_initial: bool) {
        let revision = self.revision.max(self.quiet_revision());
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end_of_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata});
        let object = self.projection.object(object);
        self.push_line(&json!({"type": "BOOKMARK", "object": object}));
    }

    /// Nothing is unread when this is asked, so the watch is as new as the whole store.
    fn quiet_revision(&self) -> u64 {
        let state = self.model.state();
        let unread = state.operations.store.since(home(self.resource), self.revision);
        if unread.is_ok_and(|u| u.is_empty()) {
            state.operations.store.revision()
        } else {
            self.revision
        }
    }

    fn push_line(&mut self, event: &Value) {
        let mut line = event.to_string();
        line.push('\n');
        self.ready.push_back(Bytes::from(line));
    }
}

fn bad_version(text: &str) -> Refusal {
    let message =
        format!("resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax");
    Refusal::new(500, "", message)
}
