//! Which of the offers to ask for next: all that there is room for at once, and one by one where one of them spoilt it.

use std::collections::VecDeque;

/// So many offers that GitHub calls wrong, one by one, are enough for once.
const REFUSALS: u32 = 3;

#[derive(Debug)]
pub(super) struct Asking {
    /// For so many jobs more.
    room: usize,
    waiting: VecDeque<i64>,
    /// The first so many of them are asked for one by one.
    alone: usize,
    refusals: u32,
    is_over: bool,
}

impl Asking {
    pub(super) fn new(room: usize, offers: impl Iterator<Item = i64>) -> Self {
        Self {
            room,
            waiting: offers.collect(),
            alone: 0,
            refusals: 0,
            is_over: false,
        }
    }

    /// What to ask for now, in one call.
    pub(super) fn wanted(&self) -> Option<Vec<i64>> {
        let most = if self.alone > 0 { self.room.min(1) } else { self.room };
        let wanted: Vec<i64> = self.waiting.iter().take(most).copied().collect();
        (!wanted.is_empty() && self.refusals < REFUSALS && !self.is_over).then_some(wanted)
    }

    /// Of the `asked` that were next, `got` were to be had. The others are somebody else's by now, or will be asked for
    /// anew by whoever asks what is on offer.
    pub(super) fn granted(&mut self, asked: usize, got: usize) {
        self.is_over = self.alone == 0;
        self.waiting.drain(..asked);
        self.alone = self.alone.saturating_sub(asked);
        self.room = self.room.saturating_sub(got);
    }

    /// GitHub called the wish for the `asked` that were next wrong. The one whose fault it is, if that is clear.
    pub(super) fn refused(&mut self, asked: usize) -> Option<i64> {
        if asked > 1 {
            self.alone = asked;
            return None;
        }
        self.refusals += 1;
        self.alone = self.alone.saturating_sub(1);
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is asked for, call by call, where `wrong` spoil every wish and all others are to be had.
    fn asked(room: usize, offers: &[i64], wrong: &[i64]) -> (Vec<Vec<i64>>, Vec<i64>) {
        let mut asking = Asking::new(room, offers.iter().copied());
        let (mut calls, mut left_alone) = (Vec::new(), Vec::new());
        while let Some(wanted) = asking.wanted() {
            if wanted.iter().any(|offer| wrong.contains(offer)) {
                left_alone.extend(asking.refused(wanted.len()));
            } else {
                asking.granted(wanted.len(), wanted.len());
            }
            calls.push(wanted);
        }
        (calls, left_alone)
    }

    #[test]
    fn b5_what_there_is_room_for_is_asked_for_at_once() {
        assert_eq!(asked(2, &[1, 2, 3], &[]), (vec![vec![1, 2]], vec![]));
        assert_eq!(asked(0, &[1], &[]), (vec![], vec![]));
        assert_eq!(asked(5, &[], &[]), (vec![], vec![]));
    }

    #[test]
    fn b5_one_that_spoils_it_for_others_is_found_and_left_alone() {
        let (calls, left_alone) = asked(3, &[1, 2, 3, 4], &[2]);
        assert_eq!(calls, [vec![1, 2, 3], vec![1], vec![2], vec![3], vec![4]]);
        assert_eq!(left_alone, [2]);
        // It takes no room from the next.
        assert_eq!(asked(1, &[1, 2], &[1]), (vec![vec![1], vec![2]], vec![1]));
    }

    #[test]
    fn b5_where_everything_is_called_wrong_few_calls_are_made() {
        let all: Vec<i64> = (1..=50).collect();
        let (calls, left_alone) = asked(50, &all, &all);
        assert_eq!((calls.len(), left_alone), (4, vec![1, 2, 3]));
    }
}
