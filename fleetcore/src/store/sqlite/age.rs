//! The clock by which stored things grow old.

#[cfg(not(target_os = "linux"))]
use std::time::Instant;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Says how late it is, never later than the time that has really passed since the store was opened allows.
///
/// A wall clock that is set forward makes everything look old at once, and what retention removes is gone for good
/// even if the clock is put right a moment later. So age counts in time that has passed; the next start believes the
/// wall clock again. A clock that is set back makes things live longer, which harms nothing.
#[derive(Debug)]
pub(super) struct AgeClock {
    opened_wall: SystemTime,
    opened: Elapsed,
}

impl AgeClock {
    pub(super) fn new() -> Self {
        Self { opened_wall: SystemTime::now(), opened: Elapsed::now() }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.at(SystemTime::now(), self.opened.elapsed())
    }

    /// The same as a timestamp; the beginning of time where it cannot be told.
    pub(super) fn timestamp(&self) -> Timestamp {
        Timestamp::try_from(self.now()).unwrap_or(Timestamp::MIN)
    }

    fn at(&self, wall: SystemTime, elapsed: Duration) -> SystemTime {
        self.opened_wall.checked_add(elapsed).map_or(wall, |passed| passed.min(wall))
    }
}

/// A moment on a clock nobody sets and that, where the system has one, runs on while the machine sleeps.
#[derive(Debug)]
struct Elapsed(#[cfg(target_os = "linux")] Duration, #[cfg(not(target_os = "linux"))] Instant);

#[cfg(target_os = "linux")]
impl Elapsed {
    fn now() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Neither is negative on this clock.
        Self(Duration::new(t.tv_sec.unsigned_abs(), u32::try_from(t.tv_nsec).unwrap_or(0)))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

#[cfg(not(target_os = "linux"))]
impl Elapsed {
    fn now() -> Self {
        Self(Instant::now())
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_clock_that_is_set_makes_nothing_old() {
        let clock = AgeClock::new();
        let start = clock.opened_wall;
        // As it should be, and with a clock that is slewed back a little.
        assert_eq!(clock.at(start + DAY, DAY), start + DAY);
        assert_eq!(clock.at(start + DAY / 2, DAY), start + DAY / 2);
        // Ten days ahead: only the hour that has passed counts.
        let hour = Duration::from_secs(3600);
        assert_eq!(clock.at(start + 10 * DAY, hour), start + hour);
        // Ten days back.
        assert_eq!(clock.at(start - 10 * DAY, hour), start - 10 * DAY);
    }

    #[test]
    fn it_runs() {
        let clock = AgeClock::new();
        let now = clock.now();
        assert!(now <= SystemTime::now());
        while clock.now() <= now {
            std::thread::yield_now();
        }
    }
}
