//! The table of runner records, indexed so that long simulations stay quick: what is deleted is kept, but
//! nothing walks over it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use super::model::{Record, Status};

#[derive(Debug, Default)]
pub(super) struct Records {
    all: BTreeMap<u64, Record>,
    by_id: HashMap<String, u64>,
    live: BTreeSet<u64>,
    next: u64,
}

impl Records {
    pub(super) fn add(&mut self, record: Record) {
        let place = self.next;
        self.next += 1;
        self.by_id.insert(record.id.clone(), place);
        self.live.insert(place);
        self.all.insert(place, record);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.all.get(self.by_id.get(id)?)
    }

    /// Changes a record and says what it became.
    pub(super) fn edit(&mut self, id: &str, edit: impl FnOnce(&mut Record)) -> Option<&Record> {
        let place = *self.by_id.get(id)?;
        let record = self.all.get_mut(&place)?;
        edit(record);
        if record.status == Status::Deleted {
            self.live.remove(&place);
        } else {
            self.live.insert(place);
        }
        Some(record)
    }

    /// Every record, oldest first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.all.values()
    }

    /// The records that are not deleted, oldest first.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.live.iter().filter_map(|place| self.all.get(place))
    }

    /// Forgets what was deleted before then.
    pub(super) fn forget(&mut self, before: Timestamp) {
        self.all
            .retain(|_, record| record.deleted.is_none_or(|at| at >= before));
        let all = &self.all;
        self.by_id.retain(|_, place| all.contains_key(place));
    }
}
