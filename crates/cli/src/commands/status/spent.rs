//! What was spent in this month.

use batchwright::progress::Timestamp;
use batchwright::provider::Day;
use batchwright::queue::DaySpent;
use batchwright::{Error, JobQueue, Usd};

use crate::format::count;

/// What the calls for jobs of a queue have cost since the first day of this month (UTC).
pub struct Spent {
    today: Day,
    /// By day and model.
    pub days: Vec<DaySpent>,
}

impl Spent {
    pub fn of(queue: &JobQueue, now: Timestamp) -> Result<Self, Error> {
        let today = Day::of(now);
        let days = queue.spent_since(Some(today.first_of_month()))?;
        Ok(Self { today, days })
    }

    /// For people; `None` if there was no call.
    pub fn line(&self) -> Option<String> {
        if self.days.is_empty() {
            return None;
        }
        let cost: Usd = self.days.iter().map(|row| row.cost_usd).sum();
        let calls = count(self.days.iter().map(|row| row.calls).sum());
        let of_today = self.days.iter().filter(|row| row.day == self.today);
        let today: Usd = of_today.map(|row| row.cost_usd).sum();
        Some(format!(
            "known cost in this month (UTC): {cost} for {calls} calls, {today} of it today"
        ))
    }
}
