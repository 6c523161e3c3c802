use super::*;

use crate::base::Timestamp;
use crate::money::deadline::Deadline;

const HOUR: Duration = Duration::from_secs(3600);

fn ago(time: Duration) -> Deadline {
    Deadline::at(std::time::SystemTime::now() - time)
}

fn course() -> Course {
    Course {
        began: Timestamp(7),
        was_safe: true,
        has_withdrawn: true,
        batch_rate: Some(2.0),
    }
}

fn known(plan: &DeadlinePlan) -> Known<'_> {
    Known {
        plan: Some(plan),
        paces: [None; 2],
        course: Some(course()),
    }
}

fn resumed(deadline: Deadline, before: Deadline, recurs: bool) -> DeadlineControl {
    let plan = DeadlinePlan::new(before, Some("--by 06:00".to_owned()));
    let options = InTime::new(deadline).given("--by 06:00").recurs(recurs);
    DeadlineControl::new(options, known(&plan))
}

#[test]
fn a_run_that_is_resumed_goes_on_where_it_was() {
    let later = Deadline::within(2 * HOUR).unwrap();
    let before = Deadline::within(HOUR).unwrap();
    let pilot = resumed(later, before, true);
    assert_eq!(pilot.plan().deadline, before);
    let now = pilot.course();
    assert_eq!((now.began, now.was_safe), (Timestamp(7), true));
    assert!(now.has_withdrawn);
}

#[test]
fn a_run_that_was_never_safe_is_not_taken_to_be_safe() {
    let before = Deadline::within(HOUR).unwrap();
    let mut plan = DeadlinePlan::new(before, Some("--within 1h".to_owned()));
    plan.change(PlanChange {
        at: 7,
        way: Way::Batch,
        withdrawn: 0,
        line: "calls alone would be too slow".to_owned(),
    });
    let course = Course {
        was_safe: false,
        ..course()
    };
    let options = InTime::new(before).given("--within 1h");
    let known = Known {
        course: Some(course),
        ..known(&plan)
    };
    assert!(!DeadlineControl::new(options, known).course().was_safe);
}

#[test]
fn a_time_of_day_that_is_over_is_the_next_one() {
    let next = Deadline::within(8 * HOUR).unwrap();
    let fresh = resumed(next, ago(16 * HOUR), true);
    assert_eq!(fresh.plan().deadline, next);
    assert!(!fresh.course().was_safe);
    // A span or a date was meant once.
    let over = ago(HOUR);
    assert_eq!(resumed(next, over, false).plan().deadline, over);
}

#[test]
fn only_a_known_rate_of_calls_shows_that_a_limit_binds() {
    let assumed = standard_pace(32, 1.0, None);
    assert!(
        assumed.per_second <= 1.0 && !assumed.measured,
        "{assumed:?}"
    );
    let known = CallPace {
        per_second: 6.4,
        call_seconds: 5.0,
        measured: false,
    };
    let known = standard_pace(32, 1.0, Some(known));
    assert!(known.per_second <= 1.0 && known.measured, "{known:?}");
}
