//! When a set that the file names no more is forgotten: what deaths and lost answers have left of it at GitHub and at
//! GHARTS is found by comparing, and only a set that is known is compared.

use std::time::Duration;

use super::Moment;

/// So many comparisons in a row must have found nothing.
const COMPARISONS: u8 = 2;
/// It is forgotten after so long whatever they say: a peer may be gone for good, for which the set was taken out of
/// the file.
const GIVEN_UP: Duration = Duration::from_hours(2);
/// Who stands by compares nothing: it forgets after so long, and hears from the last leader what is not over.
const OUT_OF_SIGHT: Duration = Duration::from_mins(12);

/// What is compared with what this daemon knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The agents at GitHub.
    Agents,
    /// The records at GHARTS.
    Records,
}

/// A removed set that has no runner and no pod, as far as is known.
#[derive(Clone, Copy, Debug)]
pub struct Emptied {
    since: Moment,
    /// Comparisons in a row that found nothing of it.
    agents: u8,
    records: u8,
}

impl Emptied {
    pub fn new(now: Moment) -> Self {
        Self {
            since: now,
            agents: 0,
            records: 0,
        }
    }

    /// A whole comparison has `found` something of it, or nothing.
    pub fn compare(&mut self, with: Compared, found: bool) {
        let count = match with {
            Compared::Agents => &mut self.agents,
            Compared::Records => &mut self.records,
        };
        *count = if found { 0 } else { count.saturating_add(1) };
    }

    /// Whether it can be forgotten. `has_records`: its runners are recorded at GHARTS.
    pub fn is_over(&self, now: Moment, leads: bool, has_records: bool) -> bool {
        let gone = now.since(self.since);
        if !leads {
            return gone >= OUT_OF_SIGHT;
        }
        let agree = self.agents >= COMPARISONS && (self.records >= COMPARISONS || !has_records);
        agree || gone >= GIVEN_UP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn compared(agents: &[bool], records: &[bool]) -> Emptied {
        let mut emptied = Emptied::new(at(0));
        for found in agents {
            emptied.compare(Compared::Agents, *found);
        }
        for found in records {
            emptied.compare(Compared::Records, *found);
        }
        emptied
    }

    #[test]
    fn b38_a_leader_forgets_a_removed_set_after_two_comparisons_in_a_row_that_find_nothing() {
        let over = |agents: &[bool], records: &[bool], has_records| {
            compared(agents, records).is_over(at(600), true, has_records)
        };
        assert!(over(&[false, false], &[], false));
        assert!(!over(&[false], &[], false));
        assert!(!over(&[false, true, false], &[], false));
        assert!(!over(&[false, false], &[], true));
        assert!(!over(&[false, false], &[false, true], true));
        assert!(over(&[true, false, false], &[true, false, false], true));
    }

    #[test]
    fn b38_a_peer_that_is_gone_for_good_does_not_keep_a_removed_set_for_ever() {
        let emptied = compared(&[true], &[]);
        assert!(!emptied.is_over(at(2 * 3600 - 1), true, true));
        assert!(emptied.is_over(at(2 * 3600), true, true));
    }

    #[test]
    fn b38_who_stands_by_compares_nothing_and_forgets_by_time() {
        let emptied = compared(&[false, false], &[false, false]);
        assert!(!emptied.is_over(at(719), false, true));
        assert!(emptied.is_over(at(720), false, true));
    }
}
