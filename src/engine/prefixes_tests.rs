use super::*;
use crate::engine::limiter::QuotaId;

const A: Prefix = Prefix { id: 1, steps: 0b11 };
const B: Prefix = Prefix { id: 2, steps: 0b01 };

fn class() -> Class {
    Class::new([QuotaId(1), QuotaId(2)])
}

fn at(seconds: u64) -> Time {
    Time::ZERO.after(Duration::from_secs(seconds))
}

#[test]
fn the_others_wait_for_the_first_call_of_their_beginning_at_their_provider() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    assert!(!prefixes.holds(A, &class, 0, at(1)));
    prefixes.begin(A, &class, 0, 7, at(1));
    assert!(prefixes.holds(A, &class, 0, at(1)));
    assert!(
        !prefixes.holds(A, &class, 1, at(1)),
        "another provider has another cache"
    );
    assert!(
        !prefixes.holds(B, &class, 0, at(1)) && !prefixes.holds(Prefix::NONE, &class, 0, at(1))
    );
    let other_model = Class::new([QuotaId(3), QuotaId(2)]);
    assert!(!prefixes.holds(A, &other_model, 0, at(1)));
    prefixes.end(8, Some(true), at(2));
    assert!(
        prefixes.holds(A, &class, 0, at(2)),
        "another call has ended"
    );
    prefixes.end(7, Some(true), at(2));
    assert!(!prefixes.holds(A, &class, 0, at(2)));
    prefixes.begin(A, &class, 0, 9, at(2));
    assert!(!prefixes.holds(A, &class, 0, at(2)), "the cache is written");
}

#[test]
fn a_beginning_is_not_held_at_a_step_that_does_not_cache_it() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    prefixes.begin(B, &class, 1, 1, at(1));
    assert!(!prefixes.holds(B, &class, 1, at(1)));
    assert_eq!(Prefix::new(3, [false, false]), Prefix::NONE);
    assert!(Prefix::new(3, [false, true]).is_cached_at(1));
    assert!(!Prefix::new(3, [false, true]).is_cached_at(40));
}

#[test]
fn a_failed_first_call_releases_the_next_one_as_the_first_and_the_third_releases_all() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    for call in 1..=u64::from(MOST_FAILED) {
        assert!(!prefixes.holds(A, &class, 0, at(call)));
        prefixes.begin(A, &class, 0, call, at(call));
        assert!(prefixes.holds(A, &class, 0, at(call)), "{call}");
        prefixes.end(call, Some(false), at(call));
    }
    prefixes.begin(A, &class, 0, 10, at(10));
    assert!(!prefixes.holds(A, &class, 0, at(10)));
    // The success of any call shows that the cache is there.
    prefixes.end(10, Some(true), at(11));
    prefixes.begin(A, &class, 0, 11, at(400));
    assert!(prefixes.holds(A, &class, 0, at(400)), "it was not used");
}

#[test]
fn calls_that_the_provider_refused_do_not_count_as_failures() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    for call in 1..10 {
        prefixes.begin(A, &class, 0, call, at(call));
        assert!(prefixes.holds(A, &class, 0, at(call)), "{call}");
        prefixes.end(call, None, at(call));
        assert!(!prefixes.holds(A, &class, 0, at(call)));
    }
}

#[test]
fn nobody_waits_longer_than_a_minute_and_a_cache_that_is_not_used_is_written_again() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    prefixes.begin(A, &class, 0, 1, at(0));
    assert_eq!(prefixes.next_change(at(1)), Some(at(60)));
    assert!(prefixes.holds(A, &class, 0, at(59)) && !prefixes.holds(A, &class, 0, at(60)));
    prefixes.begin(A, &class, 0, 2, at(60));
    prefixes.end(1, Some(true), at(61));
    assert_eq!(prefixes.next_change(at(61)), None);
    prefixes.begin(A, &class, 0, 3, at(300));
    prefixes.begin(A, &class, 0, 4, at(599));
    assert!(!prefixes.holds(A, &class, 0, at(599)), "each use keeps it");
    prefixes.begin(A, &class, 0, 5, at(900));
    assert!(prefixes.holds(A, &class, 0, at(900)));
}

#[test]
fn many_beginnings_take_little_memory() {
    let (mut prefixes, class) = (Prefixes::default(), class());
    for id in 1..=3 * MOST_KNOWN as u32 {
        let prefix = Prefix { id, steps: 1 };
        prefixes.begin(prefix, &class, 0, id.into(), at(0));
        prefixes.end(id.into(), Some(true), at(0));
    }
    assert!(prefixes.states.len() <= MOST_KNOWN && prefixes.writing.is_empty());
}
