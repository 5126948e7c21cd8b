//! The demand of one scale set: GitHub's newest statistics, and what we know better.
//!
//! Statistics lead; they are wrong for a while in both directions. So a zero removes nothing until a second
//! reading agrees, a job that never starts beside an idle runner stops counting, and `JobAssigned` messages
//! count while the statistics say 0 beside them.
//!
//! Where a set is only a sensor, nothing is assigned to it: the jobs that wait for it are the demand, and a runner that
//! has taken one of them takes it out of the count.

use std::{collections::BTreeMap, time::Duration};

use super::{Moment, runner::Hearing};

/// Two readings of zero must lie this far apart before surplus runners go (B14).
pub const ZERO_CONFIRMATION: Duration = Duration::from_secs(30);
/// An assigned job that has not started for so long beside an idle online runner is a ghost (B14).
pub const GHOST_AFTER: Duration = Duration::from_mins(10);
/// They may be jobs all the same, which GitHub could not start for a while: they count again after so long, twice as long
/// each time, but for so long at most.
const GHOSTS_FOR: (Duration, Duration) = (Duration::from_mins(30), Duration::from_hours(4));
/// Idle runners and waiting jobs that do not find each other for so long are not made for each other (B43).
pub const MISMATCH_AFTER: Duration = Duration::from_mins(2);
/// A `JobAssigned` that nothing followed is forgotten after this.
const LEDGER_LIFE: Duration = Duration::from_mins(10);
/// Statistics that are read now know of what was assigned so long ago.
pub const STATISTICS_LAG: Duration = Duration::from_mins(1);
/// More jobs than that are never waiting in one set's ledger: GitHub delivers 50 a message.
const LEDGER_MAX: usize = 10_000;

/// GitHub's statistics of one set, as read off one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub available: i64,
    pub acquired: i64,
    pub assigned: i64,
    pub running: i64,
    pub registered: i64,
    pub busy: i64,
    pub idle: i64,
}

/// What one set's queue wants.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    source: Source,
    reading: Option<Reading>,
    /// When the request that brought the newest reading began: what ended before is in it.
    began: Moment,
    /// When the jobs assigned or running last changed.
    changed: Moment,
    /// When a job last found a runner, as far as we hear.
    progressed: Moment,
    /// Since when every reading has shown a job without a runner.
    waiting_since: Option<Moment>,
    /// Assigned jobs that never started beside an idle runner: they count no more until statistics change, or it is
    /// time to try again.
    ghosts: u32,
    /// When that is, and after how long.
    ghosts_until: Moment,
    ghosts_for: Duration,
    /// First and newest of an unbroken row of zero readings.
    zeros: Option<(Moment, Moment)>,
    last_nonzero: u32,
    /// [`Source::Available`]: first and newest of an unbroken row of readings without a stranded job.
    none_stranded: Option<(Moment, Moment)>,
    /// Jobs of `JobAssigned` messages that have neither started nor ended.
    ledger: BTreeMap<String, Moment>,
}

/// Where the demand of a set is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The jobs that GitHub assigned to the set.
    #[default]
    Assigned,
    /// The jobs that wait for the set, which never takes one.
    Available,
}

/// Our runners with a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Busy {
    pub all: u32,
    /// Of these, the ones that the newest statistics do not know of.
    pub news: u32,
    /// Of all, the ones whose job no message has named so far.
    pub unnamed: u32,
}

impl Demand {
    pub fn of(source: Source) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// The jobs that a reading is about.
    fn jobs(&self, reading: &Reading) -> u32 {
        match self.source {
            Source::Assigned => count(reading.assigned),
            Source::Available => count(reading.available),
        }
    }

    /// Those of them that no runner has taken, as far as GitHub and we know.
    fn without_runner(&self, reading: &Reading, busy: u32) -> u32 {
        match self.source {
            Source::Assigned => count(reading.assigned).saturating_sub(busy.max(count(reading.running))),
            Source::Available => count(reading.available),
        }
    }

    /// Takes a reading whose request began at `began`.
    pub fn read(&mut self, now: Moment, began: Moment, reading: Reading) {
        let jobs = self.jobs(&reading);
        let old = self.reading.map(|old| (self.jobs(&old), old.running));
        if old != Some((jobs, reading.running)) {
            self.count_ghosts_again(now);
            self.ghosts_for = Duration::ZERO;
        }
        // A job that is taken back counts less, too; where nobody tells of starts, that must do.
        let fewer = |before: u32| self.source == Source::Available && jobs < before;
        if old.is_some_and(|(before, running)| fewer(before) || reading.running > running) {
            self.progressed = now;
        }
        self.waiting_since = match self.without_runner(&reading, 0) {
            0 => None,
            _ => self.waiting_since.or(Some(now)),
        };
        if jobs > 0 {
            self.zeros = None;
            self.last_nonzero = jobs;
            self.ledger.clear();
        } else {
            let first = self.zeros.map_or(now, |(first, _)| first);
            self.zeros = Some((first, now));
        }
        self.none_stranded = match stranded(&reading) {
            0 => Some((self.none_stranded.map_or(now, |(first, _)| first), now)),
            _ => None,
        };
        self.began = self.began.max(began);
        self.reading = Some(reading);
    }

    /// Statistics that know of assigned jobs lead; only beside a zero is the message all that tells of one.
    pub fn job_assigned(&mut self, now: Moment, job: &str) {
        // One that is assigned just now is none.
        self.count_ghosts_again(now);
        let statistics_lead = self.reading.is_some_and(|r| r.assigned > 0) || self.source == Source::Available;
        if !statistics_lead && self.ledger.len() < LEDGER_MAX {
            self.ledger.entry(job.to_owned()).or_insert(now);
        }
    }

    /// A job found its runner.
    pub fn job_started(&mut self, now: Moment, job: &str) {
        self.job_left_queue(job);
        self.progressed = now;
    }

    /// A job has started, ended, or was taken back.
    pub fn job_left_queue(&mut self, job: &str) {
        self.ledger.remove(job);
    }

    /// Jobs that are known by their messages alone.
    pub fn heard_of(&self) -> usize {
        self.ledger.len()
    }

    /// When a job last found its runner, as far as the queue tells.
    pub fn progressed(&self) -> Moment {
        self.progressed
    }

    pub fn reading(&self) -> Option<&Reading> {
        self.reading.as_ref()
    }

    /// When the request behind the newest reading began.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// Lets time pass: ghosts are told from jobs, old messages are forgotten. `idle_since`: since when an
    /// online runner has been idle without a break, if one has; `busy`: our runners with a job; `hearing`: a queue that
    /// does not speak to us tells of no start.
    pub fn pass_time(&mut self, now: Moment, idle_since: Option<Moment>, busy: u32, hearing: Option<Hearing>) {
        self.ledger.retain(|_, at| now.since(*at) < LEDGER_LIFE);
        let Some(reading) = self.reading else { return };
        if self.ghosts > 0 && self.ghosts_until <= now {
            self.count_ghosts_again(now);
        }
        let waiting = self.without_runner(&reading, busy);
        let heard = |at: &Moment| waiting > 0 && hearing.is_some_and(|heard| heard.last >= *at);
        if self
            .ghost_at(idle_since, hearing)
            .filter(heard)
            .is_some_and(|at| at <= now)
        {
            self.ghosts = waiting;
            let (least, most) = GHOSTS_FOR;
            self.ghosts_for = (self.ghosts_for * 2).clamp(least, most);
            self.ghosts_until = now + self.ghosts_for;
        }
    }

    fn count_ghosts_again(&mut self, now: Moment) {
        self.ghosts = 0;
        self.changed = now;
    }

    /// When what is assigned and has not started turns out to be no job.
    fn ghost_at(&self, idle_since: Option<Moment>, hearing: Option<Hearing>) -> Option<Moment> {
        let any = self.reading.is_some_and(|r| self.jobs(&r) > 0);
        let idle = idle_since.filter(|_| any && self.ghosts == 0)?;
        Some(idle.max(self.changed).max(hearing?.since) + GHOST_AFTER)
    }

    /// When it is clear that the jobs that wait and the runners that are idle do not find each other, if it goes on
    /// like this. `idle_since`: since when an online runner has been idle without a break, if one has; `started`: when
    /// a runner of ours last turned busy; `busy`: how many are.
    pub fn mismatch_at(&self, idle_since: Option<Moment>, started: Option<Moment>, busy: u32) -> Option<Moment> {
        if self.waiting(busy) == 0 {
            return None;
        }
        let since = self.waiting_since?.max(idle_since?).max(self.progressed);
        Some(since.max(started.unwrap_or_default()) + MISMATCH_AFTER)
    }

    /// How many jobs wait without a runner.
    pub fn waiting(&self, busy: u32) -> u32 {
        self.reading.map_or(0, |reading| self.without_runner(&reading, busy))
    }

    /// Jobs that runners are made for.
    pub fn to_create(&self, busy: Busy) -> u32 {
        let Some(reading) = self.reading else { return 0 };
        if self.source == Source::Available {
            let waiting = count(reading.available).saturating_sub(self.ghosts);
            return waiting.saturating_sub(busy.news).saturating_add(busy.all);
        }
        let assigned = count(reading.assigned);
        if assigned == 0 {
            // Statistics that forgot the waiting jobs forgot the running ones as well. A job that no message has named yet
            // is one of those.
            return match u32::try_from(self.ledger.len()).unwrap_or(u32::MAX) {
                0 => 0,
                heard_of => heard_of
                    .max(busy.unnamed)
                    .saturating_add(busy.all.saturating_sub(busy.unnamed)),
            };
        }
        let busy = busy.all;
        assigned.saturating_sub(self.ghosts).max(busy.min(assigned))
    }

    /// Jobs that runners are kept for: as [`Self::to_create`], but a zero counts only once confirmed, and
    /// before the first reading nothing is known to be surplus.
    pub fn to_keep(&self, busy: Busy) -> u32 {
        if self.reading.is_none() {
            return u32::MAX;
        }
        let wanted = self.to_create(busy);
        if self.zero_confirmed() {
            wanted
        } else {
            wanted.max(self.last_nonzero)
        }
    }

    /// Whether the newest zero has been confirmed (true as well when demand is not zero).
    pub fn zero_confirmed(&self) -> bool {
        self.zeros
            .is_none_or(|(first, newest)| newest.since(first) >= ZERO_CONFIRMATION)
    }

    /// Jobs that GitHub has assigned to the set, running or not; none where it is a sensor.
    pub fn assigned(&self) -> u32 {
        match self.source {
            Source::Assigned => self.reading.map_or(0, |r| count(r.assigned)),
            Source::Available => 0,
        }
    }

    /// Jobs that wait at GitHub because of our capacity.
    pub fn available(&self) -> u32 {
        match self.source {
            Source::Assigned => self.reading.map_or(0, |r| count(r.available)),
            // They are the demand, and no capacity would bring them here.
            Source::Available => 0,
        }
    }

    /// Jobs that were assigned to a set before it became a sensor: only runners registered with it get them. Until the
    /// readings agree that there are none nobody knows how many. `busy`: those of such runners that have a job.
    pub fn stranded(&self, busy: u32) -> u32 {
        match (self.source, &self.reading) {
            (Source::Assigned, _) => 0,
            (Source::Available, None) => u32::MAX,
            (Source::Available, Some(reading)) if stranded(reading) > 0 => {
                stranded(reading).min(count(reading.assigned).saturating_sub(busy))
            }
            (Source::Available, Some(_)) => match self.none_stranded {
                Some((first, newest)) if newest.since(first) >= ZERO_CONFIRMATION => 0,
                _ => u32::MAX,
            },
        }
    }

    /// When [`Self::pass_time`] has something to do.
    pub fn wake_at(&self, now: Moment, idle_since: Option<Moment>, hearing: Option<Hearing>) -> Option<Moment> {
        let ledger = self.ledger.values().map(|at| *at + LEDGER_LIFE);
        let again = (self.ghosts > 0).then_some(self.ghosts_until);
        let moments = ledger.chain(self.ghost_at(idle_since, hearing)).chain(again);
        moments.filter(|at| *at > now).min()
    }
}

/// Whether statistics that are read now know what became of a job that was assigned at that time.
pub fn is_known_to_statistics(now: Moment, assigned: Moment) -> bool {
    now.since(assigned) >= STATISTICS_LAG
}

/// Assigned jobs that no runner has.
fn stranded(reading: &Reading) -> u32 {
    count(reading.assigned).saturating_sub(count(reading.running))
}

fn count(n: i64) -> u32 {
    u32::try_from(n.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn always() -> Hearing {
        Hearing::default()
    }

    fn at(secs: i64) -> Moment {
        Moment::from_millis(secs * 1000)
    }

    fn assigned(n: i64) -> Reading {
        Reading {
            assigned: n,
            ..Reading::default()
        }
    }

    fn busy(all: u32) -> Busy {
        Busy { all, ..Busy::default() }
    }

    fn available(n: i64) -> Reading {
        Reading {
            available: n,
            ..Reading::default()
        }
    }

    #[test]
    fn b43_a_sensors_demand_is_what_waits_and_what_runs() {
        let mut demand = Demand::of(Source::Available);
        demand.read(at(0), at(0), available(3));
        assert_eq!((demand.to_create(busy(0)), demand.available()), (3, 0));
        assert_eq!(demand.to_create(busy(2)), 5);
        let news = Busy { news: 1, ..busy(2) };
        assert_eq!(
            demand.to_create(news),
            4,
            "the newest statistics still count the job that one of them has taken"
        );
        demand.read(at(10), at(10), assigned(7));
        assert_eq!(
            demand.to_create(busy(1)),
            1,
            "what is assigned never reaches an ordinary runner"
        );
        demand.job_assigned(at(11), "a");
        assert_eq!(demand.to_create(busy(1)), 1);
    }

    #[test]
    fn b43_what_was_assigned_before_a_set_became_a_sensor_is_stranded_until_two_readings_agree() {
        let of = |assigned, running| Reading {
            assigned,
            running,
            ..Reading::default()
        };
        let mut demand = Demand::of(Source::Available);
        assert_eq!(demand.stranded(0), u32::MAX, "nothing is known yet");
        demand.read(at(0), at(0), of(3, 1));
        assert_eq!(demand.stranded(1), 2);
        assert_eq!(demand.stranded(2), 1, "we know better");
        demand.read(at(10), at(10), of(3, 3));
        assert_eq!(demand.stranded(3), u32::MAX, "one reading may be wrong");
        demand.read(at(40), at(40), of(1, 1));
        assert_eq!(demand.stranded(1), 0);
        let mut demand = Demand::default();
        demand.read(at(0), at(0), of(3, 1));
        assert_eq!(demand.stranded(0), 0, "they are the demand");
    }

    #[test]
    fn b43_jobs_that_wait_beside_idle_runners_for_two_minutes_do_not_match_them() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(2));
        assert_eq!(
            demand.mismatch_at(None, None, 0),
            None,
            "without an idle runner they wait for one"
        );
        let idle = Some(at(30));
        assert_eq!(demand.mismatch_at(idle, None, 0), Some(at(150)));
        assert_eq!(
            demand.mismatch_at(idle, Some(at(60)), 0),
            Some(at(180)),
            "one has just found a job"
        );
        assert_eq!(demand.mismatch_at(idle, None, 2), None, "we know better: both run");
        demand.read(at(100), at(100), assigned(3));
        assert_eq!(
            demand.mismatch_at(idle, None, 0),
            Some(at(150)),
            "more jobs are no sign of life"
        );
        demand.read(
            at(110),
            at(110),
            Reading {
                running: 1,
                ..assigned(3)
            },
        );
        assert_eq!(demand.mismatch_at(idle, None, 0), Some(at(230)));
        demand.read(
            at(120),
            at(120),
            Reading {
                running: 3,
                ..assigned(3)
            },
        );
        assert_eq!(demand.mismatch_at(idle, None, 0), None, "every job runs");
    }

    #[test]
    fn b14_one_zero_creates_nothing_and_removes_nothing_until_a_second_reading_agrees() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(5));
        demand.read(at(10), at(10), assigned(0));
        assert_eq!(demand.to_create(busy(0)), 0);
        assert_eq!(demand.to_keep(busy(0)), 5);
        demand.read(at(20), at(20), assigned(0));
        assert_eq!(demand.to_keep(busy(0)), 5);
        demand.read(at(40), at(40), assigned(0));
        assert_eq!(demand.to_keep(busy(0)), 0);
    }

    #[test]
    fn b14_a_job_that_comes_beside_an_unconfirmed_zero_takes_nothing_away() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(5));
        demand.read(at(10), at(10), assigned(0));
        demand.job_assigned(at(11), "a");
        assert_eq!((demand.to_create(busy(0)), demand.to_keep(busy(0))), (1, 5));
    }

    #[test]
    fn b14_without_any_reading_nothing_is_made_and_nothing_is_surplus() {
        let demand = Demand::default();
        assert_eq!((demand.to_create(busy(3)), demand.to_keep(busy(3))), (0, u32::MAX));
    }

    #[test]
    fn b14_a_ghost_beside_an_idle_runner_stops_counting_until_statistics_change() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(2));
        let idle = Some(at(5));
        assert_eq!(demand.wake_at(at(5), idle, Some(always())), Some(at(605)));
        demand.pass_time(at(604), idle, 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 2);
        demand.pass_time(at(605), None, 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 2, "without an idle runner it may be real");
        demand.pass_time(at(605), idle, 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 1);
        demand.pass_time(at(700), None, 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 1, "also once the idle runner is gone");
        assert_eq!(demand.to_create(busy(2)), 2, "a runner that is busy after all counts");
        demand.read(at(700), at(700), assigned(3));
        assert_eq!(demand.to_create(busy(1)), 3);
    }

    #[test]
    fn b14_a_ghost_that_may_be_a_job_is_tried_again_later_and_later() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(1));
        demand.pass_time(at(605), Some(at(5)), 0, Some(always()));
        assert_eq!(demand.to_create(busy(0)), 0);
        let again = demand.wake_at(at(700), None, Some(always()));
        assert_eq!(again, Some(at(605 + 1800)));
        demand.pass_time(at(605 + 1800), None, 0, Some(always()));
        assert_eq!(demand.to_create(busy(0)), 1, "GitHub may be able to start it by now");
        demand.pass_time(at(2405 + 600), Some(at(2410)), 0, Some(always()));
        assert_eq!(
            demand.to_create(busy(0)),
            1,
            "beside an idle runner for ten minutes, not before"
        );
        demand.pass_time(at(2410 + 600), Some(at(2410)), 0, Some(always()));
        assert_eq!(demand.to_create(busy(0)), 0);
        assert_eq!(demand.wake_at(at(3100), None, Some(always())), Some(at(3010 + 3600)));
        demand.job_assigned(at(3200), "a");
        assert_eq!(demand.to_create(busy(0)), 1, "what is assigned just now is no ghost");
    }

    #[test]
    fn b14_jobs_that_all_have_a_runner_are_no_ghosts_and_do_not_put_the_next_try_off() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(2));
        for secs in 700..720 {
            demand.pass_time(at(secs), Some(at(5)), 2, Some(always()));
        }
        demand.pass_time(at(720), Some(at(5)), 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 1);
        let again = demand.wake_at(at(721), None, Some(always()));
        assert_eq!(again, Some(at(720 + 1800)), "half an hour, not four");
    }

    #[test]
    fn b14_nothing_is_taken_for_a_ghost_while_the_queue_does_not_speak() {
        let heard = |since, last| {
            Some(Hearing {
                since: at(since),
                last: at(last),
            })
        };
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(1));
        for hearing in [None, heard(0, 500), heard(900, 1200)] {
            demand.pass_time(at(1200), Some(at(5)), 0, hearing);
            assert_eq!(demand.to_create(busy(0)), 1, "{hearing:?}");
        }
        demand.pass_time(at(1500), Some(at(5)), 0, heard(900, 1500));
        assert_eq!(demand.to_create(busy(0)), 0);
    }

    #[test]
    fn b14_a_start_beside_the_same_number_of_assigned_jobs_is_a_change() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(2));
        let started = Reading {
            running: 1,
            ..assigned(2)
        };
        demand.read(at(500), at(500), started);
        demand.pass_time(at(700), Some(at(5)), 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 2);
        demand.pass_time(at(1100), Some(at(5)), 1, Some(always()));
        assert_eq!(demand.to_create(busy(1)), 1);
    }

    #[test]
    fn assigned_messages_count_only_while_statistics_say_zero() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(0));
        demand.job_assigned(at(1), "a");
        demand.job_assigned(at(1), "b");
        assert_eq!(demand.to_create(busy(0)), 2);
        assert_eq!(demand.to_create(busy(3)), 5, "the running ones were forgotten as well");
        let unnamed = |unnamed| Busy { unnamed, ..busy(3) };
        assert_eq!(
            demand.to_create(unnamed(1)),
            4,
            "one of the two runs, and nobody has said which"
        );
        assert_eq!(demand.to_create(unnamed(3)), 3);
        demand.job_left_queue("a");
        assert_eq!(demand.to_create(busy(0)), 1);
        demand.read(at(3), at(3), assigned(1));
        assert_eq!(demand.to_create(busy(0)), 1);
        demand.read(at(5), at(5), assigned(0));
        assert_eq!(demand.to_create(busy(0)), 0, "the ledger ended with true statistics");
    }

    #[test]
    fn a_message_beside_statistics_that_know_its_job_leaves_nothing_behind() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(1));
        demand.job_assigned(at(0), "a");
        demand.read(at(30), at(30), assigned(0));
        assert_eq!(demand.to_create(busy(0)), 0);
    }

    #[test]
    fn a_job_of_which_nothing_more_is_heard_is_forgotten_and_redelivery_does_not_prolong_it() {
        let mut demand = Demand::default();
        demand.read(at(0), at(0), assigned(0));
        demand.job_assigned(at(0), "a");
        demand.job_assigned(at(100), "b");
        demand.job_assigned(at(300), "a");
        assert_eq!(demand.wake_at(at(300), None, Some(always())), Some(at(600)));
        demand.pass_time(at(600), None, 0, Some(always()));
        assert_eq!(demand.to_create(busy(0)), 1);
        assert_eq!(demand.wake_at(at(600), None, Some(always())), Some(at(700)));
        demand.pass_time(at(700), None, 0, Some(always()));
        assert_eq!(demand.to_create(busy(0)), 0);
    }
}
