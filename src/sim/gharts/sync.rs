//! The periodic sync with GitHub: what tells the service that a runner came, ran and went, and what deletes
//! runners whose labels are not those that were stored.
//!
//! It reads one page of a hundred runners, as the real one: in a larger organization it takes live runners for
//! gone.

use std::collections::BTreeSet;

use super::{
    Gharts,
    flavour::Sync,
    model::{Kind, Record, Status},
    provision::find,
    upstream::Listed,
};
use crate::sim::gharts::Database;

impl Gharts {
    /// Starts it, where this version on this database has one.
    pub(super) fn start_sync(&self, database: Database) {
        let Some(sync) = self.capabilities().sync else {
            return;
        };
        if database == Database::Sqlite && !sync.on_sqlite {
            return;
        }
        let gharts = self.clone();
        let stop = self.inner.tasks.token().clone();
        self.inner.tasks.spawn("gharts sync", async move {
            while stop.run_until_cancelled(tokio::time::sleep(sync.every)).await.is_some() {
                gharts.sync_with(&sync).await;
            }
        });
    }

    /// One sync, as an administrator triggers it. Nothing where this version has none.
    pub async fn sync(&self) {
        if let Some(sync) = self.capabilities().sync {
            self.sync_with(&sync).await;
        }
    }

    async fn sync_with(&self, sync: &Sync) {
        let Ok(page) = self.inner.upstream.first_page().await else {
            return;
        };
        let records: Vec<Record> = self.lock().records.live().cloned().collect();
        for record in records {
            let listed = find(&record, &page);
            let drifted = listed.as_ref().is_some_and(|listed| has_drifted(&record, listed));
            let busy = listed.as_ref().is_some_and(|listed| listed.busy);
            if let (true, false, Some(listed)) = (drifted, busy, &listed)
                && self.inner.upstream.remove(listed.id).await.is_err()
            {
                continue;
            }
            let now = self.inner.clock.now();
            let expired = listed.is_none()
                && record.status == Status::Pending
                && now.duration_since(record.created) >= sync.pending_life;
            self.lock().records.edit(&record.id, |record| {
                if record.status == Status::Deleted {
                    // Given back in the meantime.
                    return;
                }
                if expired || drifted && (!busy || sync.marks_busy_drift) {
                    record.end(now);
                } else {
                    record.seen(listed.as_ref(), now);
                }
            });
        }
        self.lock().last_sync = Some(self.inner.clock.now());
    }
}

/// Order is no drift. A runner that registered itself is compared once, soon after its token was given.
fn has_drifted(record: &Record, listed: &Listed) -> bool {
    let stored: BTreeSet<&String> = record.labels.iter().collect();
    record.kind == Kind::Jit && stored != listed.labels.iter().collect()
}
