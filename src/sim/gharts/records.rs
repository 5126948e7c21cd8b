//! The table of runner records, indexed so that long simulations stay quick: what is deleted is kept, but
//! nothing walks over it.

use std::collections::{BTreeSet, HashMap};

use super::model::{Record, Status};

#[derive(Debug, Default)]
pub(super) struct Records {
    all: Vec<Record>,
    by_id: HashMap<String, usize>,
    live: BTreeSet<usize>,
}

impl Records {
    pub(super) fn add(&mut self, record: Record) {
        let place = self.all.len();
        self.by_id.insert(record.id.clone(), place);
        self.live.insert(place);
        self.all.push(record);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Record> {
        self.all.get(*self.by_id.get(id)?)
    }

    /// Changes a record and says what it became.
    pub(super) fn edit(&mut self, id: &str, edit: impl FnOnce(&mut Record)) -> Option<&Record> {
        let place = *self.by_id.get(id)?;
        let record = self.all.get_mut(place)?;
        edit(record);
        if record.status == Status::Deleted {
            self.live.remove(&place);
        } else {
            self.live.insert(place);
        }
        self.all.get(place)
    }

    /// Every record, oldest first.
    pub(super) fn all(&self) -> &[Record] {
        &self.all
    }

    /// The records that are not deleted, oldest first.
    pub(super) fn live(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.live.iter().filter_map(|place| self.all.get(*place))
    }
}
