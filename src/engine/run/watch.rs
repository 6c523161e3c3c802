//! The caller's thread during a run.

use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use crossbeam_channel::select;

use crate::base::{Context, Error, Time};

use super::super::dispatch::{Event, StopReason};
use super::super::work::Work;
use super::{Observer, Outlet, Shell, TICK, Waker};

/// The threads of a run.
pub(super) struct Pool<'p> {
    pub threads: usize,
    pub most: usize,
    pub start: &'p dyn Fn(usize) -> Result<(), Error>,
}

impl Pool<'_> {
    /// Grows to this number of threads; false if the system refuses more.
    fn grow(&mut self, wanted: usize) -> bool {
        while self.threads < wanted {
            if let Err(error) = (self.start)(self.threads) {
                log::warn!("limited to {} calls at once: {error}", self.threads);
                self.most = self.threads;
                return false;
            }
            self.threads += 1;
        }
        true
    }
}

pub(super) fn wakes(waker: &Waker) -> impl Fn() + Send + Sync + 'static {
    let waker = waker.clone();
    move || waker.wake()
}

/// The caller's thread: time, cancellation, deadline, ticks and the caller's own sink.
pub(super) fn wait_out<W: Work, O, S>(
    shell: &Shell<'_, W>,
    calls: &Context,
    pool: &mut Pool<'_>,
    mut outlet: Option<&mut Outlet<'_, O>>,
    observer: &mut Observer<'_, W, S>,
) {
    let setup = shell.setup;
    let clock = setup.clock;
    let _on_cancel = setup.ctx.on_cancel(wakes(&setup.waker));
    let _on_abort = setup.ctx.on_abort(wakes(&setup.waker));
    clock.on_jump(Box::new(wakes(&setup.waker)));
    let mut watch = Watch {
        shell,
        calls,
        deadline: setup.ctx.remaining().map(|left| clock.now().after(left)),
        grace_ends: None,
        next_tick: clock.now().after(TICK),
        permits: None,
        seen: 0,
    };
    loop {
        let now = clock.now();
        watch.follow_concurrency(pool);
        watch.end_in_time(now);
        shell.turn();
        let Some((wake_at, picture)) = watch.look(observer, now) else {
            return;
        };
        if let Some(picture) = picture {
            (observer.show)(picture);
        }
        // Events that arrived while we held the lock are ours to handle.
        fence(Ordering::SeqCst);
        if !shell.inbox.is_empty() {
            shell.turn();
        }
        watch.wait_until(wake_at, outlet.as_deref_mut());
    }
}

/// State of the caller's thread.
struct Watch<'w, 's, W: Work> {
    shell: &'w Shell<'s, W>,
    calls: &'w Context,
    deadline: Option<Time>,
    /// When the calls of a cancelled run are aborted.
    grace_ends: Option<Time>,
    next_tick: Time,
    /// The number of permits that the dispatcher has.
    permits: Option<usize>,
    /// Calls that had ended at the last check.
    seen: u64,
}

impl<W: Work> Watch<'_, '_, W> {
    /// Reports the number of permits to the dispatcher, and starts the threads that its calls need.
    fn follow_concurrency(&mut self, pool: &mut Pool<'_>) {
        let shell = self.shell;
        if let Some(permits) = self.shell.setup.permits {
            let wanted = permits.load(Ordering::SeqCst).clamp(1, pool.most);
            if self.permits.replace(wanted) != Some(wanted) {
                let _ = shell.post.send(Event::SetConcurrency(wanted));
            }
        }
        let needed = shell.needed.load(Ordering::SeqCst).min(pool.most);
        if !pool.grow(needed) {
            let _ = shell.post.send(Event::SetConcurrency(pool.threads));
        }
    }

    /// Begins no call after the deadline. Aborts calls of a cancelled run after its grace period, and those of an overdue
    /// one if it was set.
    fn end_in_time(&mut self, now: Time) {
        let ctx = self.shell.setup.ctx;
        if let Some(at) = self.deadline.take_if(|at| *at <= now) {
            let stop = Event::Stop(StopReason::DeadlineExceeded);
            let _ = self.shell.post.send(stop);
            self.grace_ends = ctx.own_grace().map(|grace| at.after(grace));
        }
        if ctx.is_cancelled() && self.grace_ends.is_none() {
            self.grace_ends = Some(now.after(ctx.grace()));
        }
        if ctx.is_aborted() || self.grace_ends.is_some_and(|at| at <= now) {
            self.calls.abort();
        }
    }

    /// Runs the observer if it is due. Returns until when to wait, or `None` when the run has ended.
    fn look<S>(&mut self, observer: &Observer<'_, W, S>, now: Time) -> Option<(Time, Option<S>)> {
        let shell = self.shell;
        // A worker may hold the lock during its turn; it wakes us if needed.
        let mut state = shell.state.lock();
        state.tasks.as_ref()?;
        let mut picture = None;
        let ended = state.dispatcher.ended;
        let any_ended = std::mem::replace(&mut self.seen, ended) != ended;
        if now >= self.next_tick || any_ended && shell.setup.every_call {
            self.next_tick = now.after(TICK);
            picture = Some((observer.look)(&mut state.dispatcher, now));
        }
        // After the deadline calls may take their time, but not the writing of their outcomes.
        let overdue = matches!(
            state.dispatcher.stop_reason(),
            Some(StopReason::DeadlineExceeded)
        ) && state.dispatcher.calls_in_flight() == 0;
        let give_up = (overdue || self.calls.is_cancelled()) && !state.giving_up;
        state.giving_up |= give_up;
        if give_up || (picture.is_some() && state.dispatcher.stop_reason().is_some()) {
            shell.turn_locked(&mut state);
            state.tasks.as_ref()?;
        }
        let times = [
            state.wake_at,
            Some(self.next_tick),
            self.deadline,
            self.grace_ends,
        ];
        let until = times
            .into_iter()
            .flatten()
            .filter(|at| *at > now || Some(*at) == state.wake_at)
            .min()
            .unwrap_or(self.next_tick);
        shell.waits_for.store(until.as_nanos(), Ordering::SeqCst);
        Some((until, picture))
    }

    /// Waits for an outcome, a wake-up or the time, and passes an outcome to the caller's sink.
    fn wait_until<O>(&self, wake_at: Time, outlet: Option<&mut Outlet<'_, O>>) {
        let (shell, never) = (self.shell, crossbeam_channel::never());
        let wait = self.shell.setup.clock.real_wait(wake_at);
        let wait = wait.unwrap_or(Duration::from_secs(3600));
        let outcomes = outlet.as_ref().map_or(&never, |outlet| &outlet.outcomes);
        let outcome = select! {
            // The holder of the lock may have checked just before this wake-up.
            recv(self.shell.setup.woken) -> _ => {
                let _ = shell.post.send(Event::Woken);
                None
            }
            recv(outcomes) -> outcome => outcome.ok(),
            default(wait) => None,
        };
        if let (Some(outcome), Some(outlet)) = (outcome, outlet) {
            if (outlet.sink)(outcome).is_break() {
                let _ = shell.post.send(Event::Stop(StopReason::SinkClosed));
            }
            let _ = shell.post.send(Event::Released(1));
        }
    }
}
