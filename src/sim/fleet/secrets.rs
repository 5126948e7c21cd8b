//! The Secrets that pods wait for: one watch for all of them, and a call of one's own for those without our label.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, runtime::watcher::Event};
use tokio::sync::Notify;

/// How often a Secret that the watch does not show is asked for.
const ASK_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Secrets {
    api: Api<Secret>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, Arc<Secret>>,
    awaited: HashMap<String, Arc<Notify>>,
    listed: Option<HashSet<String>>,
}

impl Secrets {
    pub(super) fn new(api: Api<Secret>) -> Self {
        Self {
            api,
            state: Mutex::default(),
        }
    }

    pub(super) async fn follow(&self, events: impl Stream<Item = Event<Secret>>) {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            self.lock().take_in(event);
        }
    }

    /// One key of a Secret, once both are there.
    pub(super) async fn value(&self, name: &str, key: &str) -> String {
        loop {
            let notify = {
                let mut state = self.lock();
                if let Some(value) = state.known.get(name).and_then(|secret| read(secret, key)) {
                    state.awaited.remove(name);
                    return value;
                }
                state.awaited.entry(name.to_owned()).or_default().clone()
            };
            if tokio::time::timeout(ASK_EVERY, notify.notified()).await.is_ok() {
                continue;
            }
            if let Ok(Some(secret)) = self.api.get_opt(name).await
                && let Some(value) = read(&secret, key)
            {
                self.lock().awaited.remove(name);
                return value;
            }
        }
    }

    /// Nobody waits for this Secret any more.
    pub(super) fn forget(&self, name: &str) {
        self.lock().awaited.remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_in(&mut self, event: Event<Secret>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(secret) => {
                if let (Some(listed), Some(name)) = (&mut self.listed, &secret.metadata.name) {
                    listed.insert(name.clone());
                }
                self.put(secret);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                self.known.retain(|name, _| listed.contains(name));
            }
            Event::Apply(secret) => self.put(secret),
            Event::Delete(secret) => {
                if let Some(name) = &secret.metadata.name {
                    self.known.remove(name);
                }
            }
        }
    }

    fn put(&mut self, secret: Secret) {
        let Some(name) = secret.metadata.name.clone() else {
            return;
        };
        if let Some(waiting) = self.awaited.get(&name) {
            // Keeps a permit: who looked just before is not left waiting.
            waiting.notify_one();
        }
        self.known.insert(name, Arc::new(secret));
    }
}

fn read(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    String::from_utf8(value.0.clone()).ok()
}
