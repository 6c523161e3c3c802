use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::testing::ManualClock;

fn numbers(n: usize) -> impl Iterator<Item = Result<usize, Error>> + Send {
    (0..n).map(Ok)
}

fn run_all<D: Send>(
    pool: &Pool<'_>,
    items: impl Iterator<Item = Result<usize, Error>> + Send,
    call: impl Fn(&usize, u32, &Context) -> Result<D, Error> + Sync,
) -> (Vec<TaskEnd<usize, D>>, PoolEnd) {
    let mut ends = Vec::new();
    let end = pool.run(items, call, |end| {
        ends.push(end);
        ControlFlow::Continue(())
    });
    ends.sort_by_key(|end| end.index);
    (ends, end)
}

#[test]
fn every_item_ends_once_within_the_concurrency_limit() {
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let pool = Pool::new(&Context::new()).concurrency(4);
    let (ends, end) = run_all(&pool, numbers(1_000), |n, _, _| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(n * 2)
    });
    assert!(end.stop.is_none());
    assert_eq!(end.summary.completed, 1_000);
    assert!(most.load(Ordering::SeqCst) <= 4);
    let doubled = ends.into_iter().map(|end| end.result.unwrap());
    assert!(doubled.eq((0..1_000).map(|n| n * 2)));
}

#[test]
fn a_failure_a_panic_and_a_critical_error_fail_one_item_each() {
    let pool = Pool::new(&Context::new());
    let (ends, end) = run_all(&pool, numbers(100), |n, _, _| match n {
        7 => panic!("seven"),
        8 => Err(Error::new(ErrorKind::Invalid, "eight").with_critical()),
        9 => Err(Error::new(ErrorKind::Auth, "nine")),
        n => Ok(*n),
    });
    assert!(end.stop.is_none(), "{:?}", end.stop);
    assert_eq!((end.summary.completed, end.summary.failed), (97, 3));
    let failed = ends.iter().filter(|end| end.result.is_err());
    assert!(failed.map(|end| end.index).eq(7..10));
}

#[test]
fn temporary_failures_are_retried() {
    let retry = RetryPolicy::default().max_retries(2);
    let pool = Pool::new(&Context::new()).retry(retry.base_delay(Duration::ZERO));
    let (ends, _) = run_all(&pool, numbers(3), |n, attempt, _| match (n, attempt) {
        (1, 1 | 2) => Err(Error::new(ErrorKind::Transient, "again")),
        (2, _) => Err(Error::new(ErrorKind::Transient, "for ever")),
        _ => Ok(attempt),
    });
    let attempts: Vec<u32> = ends.iter().map(|end| end.attempts).collect();
    assert_eq!(attempts, [1, 3, 3]);
    assert!(ends[1].result.is_ok() && ends[2].result.is_err());
}

#[test]
fn policies_stop_the_run_and_read_items_are_cancelled() {
    let critical = |n: &usize| match n {
        5 => Err(Error::new(ErrorKind::Invalid, "no such program").with_critical()),
        3 => Err(Error::new(ErrorKind::Invalid, "its own fault")),
        n => Ok(*n),
    };
    use StopReason::{Critical, ItemFailed};
    let (first, fatal) = (ErrorPolicy::StopOnError, ErrorPolicy::StopOnCriticalError);
    for (policy, failed) in [(first, 3), (fatal, 5)] {
        let pool = Pool::new(&Context::new()).concurrency(1).on_error(policy);
        let (ends, end) = run_all(&pool, numbers(1_000_000), |n, _, _| critical(n));
        let stopped = matches!(end.stop, Some(ItemFailed(_) | Critical(_)));
        assert!(stopped, "{:?}", end.stop);
        let indexes = ends.iter().map(|end| end.index);
        assert!(indexes.eq(0..ends.len() as u64));
        assert!(ends[failed].attempts == 1 && ends[failed].result.is_err());
        for end in &ends[failed + 1..] {
            let error = end.result.as_ref().unwrap_err();
            assert_eq!((end.attempts, error.kind()), (0, ErrorKind::Cancelled));
        }
        assert!(ends.len() < 100, "{} were read", ends.len());
    }
}

#[test]
fn an_endless_source_is_read_only_as_far_as_it_is_used() {
    let read = AtomicUsize::new(0);
    let items = std::iter::from_fn(|| Some(Ok(read.fetch_add(1, Ordering::SeqCst))));
    let mut seen = 0;
    let sink = |_| {
        seen += 1;
        match seen {
            50 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let end = Pool::new(&Context::new()).run(items, |n, _, _| Ok(*n), sink);
    assert!(matches!(end.stop, Some(StopReason::SinkClosed)));
    assert!(read.load(Ordering::SeqCst) < 200);
}

#[test]
fn a_failed_source_ends_the_run_after_earlier_items() {
    let fault = Err(Error::new(ErrorKind::Invalid, "line 11"));
    let items = numbers(10).chain([fault]).chain(numbers(5));
    let (ends, end) = run_all(&Pool::new(&Context::new()), items, |n, _, _| Ok(*n));
    assert!(matches!(end.stop, Some(StopReason::Fatal(_))));
    assert_eq!(ends.len(), 10);
}

#[test]
fn a_cancelled_run_starts_nothing_more() {
    let ctx = Context::new();
    let started = AtomicUsize::new(0);
    let pool = Pool::new(&ctx).concurrency(2);
    let (ends, end) = run_all(&pool, numbers(10_000), |n, _, _| {
        started.fetch_add(1, Ordering::SeqCst);
        if *n == 20 {
            ctx.cancel();
        }
        Ok(*n)
    });
    assert!(matches!(end.stop, Some(StopReason::Cancelled)));
    let answered = ends.iter().filter(|end| end.result.is_ok()).count();
    assert_eq!(answered, started.load(Ordering::SeqCst));
    assert!(answered < 100);
}

#[test]
fn starts_keep_their_rate_whatever_the_duration_of_tasks() {
    let clock = ManualClock::new();
    let starts = parking_lot::Mutex::new(Vec::new());
    let mut pool = Pool::new(&Context::new()).concurrency(8).rate(Some(2.0));
    pool.clock = &clock;
    let began = clock.now();
    let everybody = std::sync::Barrier::new(8);
    let (_, end) = run_all(&pool, numbers(8), |_, _, _| {
        let mut starts = starts.lock();
        starts.push(clock.now().since(began));
        drop(starts);
        clock.advance(Duration::from_millis(500));
        // No task ends before all have begun.
        everybody.wait();
        Ok(())
    });
    assert_eq!(end.summary.completed, 8);
    let apart: Vec<u128> = starts.lock().iter().map(Duration::as_millis).collect();
    assert_eq!(apart, [0, 500, 1000, 1500, 2000, 2500, 3000, 3500]);
}

#[test]
fn impossible_exports_are_rejected_before_reading() {
    let ctx = Context::new();
    let pool = || Pool::new(&ctx);
    for pool in [pool().concurrency(0), pool().rate(Some(0.0))] {
        let (ends, end) = run_all(&pool, numbers(3), |n, _, _| Ok(*n));
        assert!(ends.is_empty());
        assert!(matches!(end.stop, Some(StopReason::Misuse(_))));
    }
}

#[test]
fn a_blocked_detached_source_does_not_delay_the_end() {
    let ctx = Context::new();
    let (give, items) = bounded(1);
    give.send(Ok(1)).unwrap();
    let pool = Pool::new(&ctx);
    let call = |n: &usize, _: u32, _: &Context| Ok(*n);
    let end = pool.run_detached(items.into_iter(), call, |_| {
        ctx.cancel();
        ControlFlow::Continue(())
    });
    assert_eq!(end.summary.completed, 1);
    // The source still waits, because `give` was not dropped before.
    drop(give);
}

#[test]
fn at_any_end_of_a_run_a_waiting_source_is_notified() {
    let over = std::sync::Barrier::new(2);
    let told = || _ = over.wait();
    let waits = std::iter::from_fn(|| {
        over.wait();
        None
    });
    let critical = |_: &usize, _: u32, _: &Context| -> Result<(), Error> {
        Err(Error::new(ErrorKind::Invalid, "no such program").with_critical())
    };
    let ctx = Context::new();
    let pool = Pool::new(&ctx).on_end(&told);
    let pool = pool.on_error(ErrorPolicy::StopOnCriticalError);
    let (ends, end) = run_all(&pool, numbers(1).chain(waits), critical);
    assert!(matches!(end.stop, Some(StopReason::Critical(_))));
    assert_eq!(ends.len(), 1);
}

#[test]
fn rate_and_address_errors_of_a_task_affect_only_it() {
    let ctx = Context::new();
    let retry = RetryPolicy::default().base_delay(Duration::ZERO);
    let pool = Pool::new(&ctx).retry(retry);
    let pool = pool.on_error(ErrorPolicy::StopOnCriticalError);
    let slower = Error::new(ErrorKind::RateLimited, "slower");
    let slower = slower.with_retry_after(Some(Duration::from_secs(100_000)));
    let (ends, end) = run_all(&pool, numbers(30), |n, _, _| match n % 3 {
        0 => Err(slower.clone()),
        1 => Err(Error::new(ErrorKind::Malformed, "odd").with_unreachable()),
        _ => Ok(()),
    });
    assert!(end.stop.is_none(), "{:?}", end.stop);
    assert_eq!((end.summary.completed, end.summary.failed), (10, 20));
    assert!(ends.iter().all(|end| end.attempts == 1));
}
