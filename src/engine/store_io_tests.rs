//! Calls start and end while a request to a store on a server is in flight.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::*;
use crate::base::SystemClock;
use crate::base::random::Random;
use crate::engine::availability::Availability;
use crate::engine::dispatch::{ErrorPolicy, Options};
use crate::engine::limiter::{Limiter, QuotaId};
use crate::engine::quota::Class;
use crate::engine::route::{RetryPolicy, Tries};
use crate::engine::work::{Cost, SettleIo, Take, TakeIo};

/// Time after which a deadlock fails the test.
const PATIENCE: Duration = Duration::from_secs(180);

/// Two items. The second claim finds the second one.
struct TwoItems {
    looks: usize,
    looking: bool,
    found: Vec<u32>,
    settled: Vec<u32>,
    /// The second claim waits for the end of the first call. The first settling write waits for the start of the
    /// second call.
    begun: Receiver<u32>,
    ended: Receiver<u32>,
    /// Reports the first settling write, for which the second call waits: otherwise one write could settle both.
    writing: Sender<()>,
    /// Whether the first settling write fails.
    fails: bool,
    writes: usize,
}

impl TwoItems {
    fn new(fails: bool) -> (Self, Calls) {
        let ((begins, begun), (ends, ended)) = (unbounded(), unbounded());
        let (writing, written) = unbounded();
        let work = Self {
            looks: 0,
            looking: false,
            found: Vec::new(),
            settled: Vec::new(),
            begun,
            ended,
            writing,
            fails,
            writes: 0,
        };
        let calls = Calls {
            begins,
            ends,
            written,
        };
        (work, calls)
    }
}

impl Work for TwoItems {
    type Task = u32;
    type Done = ();

    fn has_store(&self) -> bool {
        true
    }

    fn take(&mut self, _: usize, _: &Availability, _: Time) -> Result<Take<u32>, Error> {
        if self.found.is_empty() && self.looks == 2 && !self.looking {
            return Ok(Take::Done);
        }
        let found = self.found.drain(..).map(|task| Ticket {
            task,
            cost: Cost::default(),
            order: task.into(),
            class: Class::new([QuotaId::NONE]),
            tries: Tries::default(),
        });
        let found: Vec<_> = found.collect();
        Ok(if found.is_empty() {
            Take::Idle {
                until: None,
                source_open: true,
            }
        } else {
            Take::Items(found)
        })
    }

    fn take_io(&mut self) -> Option<TakeIo<Self>> {
        if self.looking || self.looks == 2 {
            return None;
        }
        self.looking = true;
        self.looks += 1;
        let (look, ended) = (self.looks as u32, self.ended.clone());
        Some(Box::new(move || {
            if look == 2 {
                let first = ended.recv_timeout(PATIENCE);
                assert_eq!(first, Ok(1), "a claim prevented a call from ending");
            }
            Box::new(move |work| {
                work.looking = false;
                work.found.push(look);
            })
        }))
    }

    fn settle_io(&mut self, _: &[Settled<u32, ()>], _: Time) -> Option<SettleIo<Self>> {
        self.writes += 1;
        let (is_first, begun) = (self.writes == 1, self.begun.clone());
        let writing = self.writing.clone();
        let fails = is_first && self.fails;
        Some(Box::new(move || {
            let _ = writing.send(());
            if is_first && !fails {
                let mut calls = std::iter::repeat_with(|| begun.recv_timeout(PATIENCE));
                let second = calls.find(|call| *call != Ok(1));
                assert_eq!(
                    second,
                    Some(Ok(2)),
                    "a write prevented a call from starting"
                );
            }
            Box::new(move |work, done, now| {
                if fails {
                    Err(Error::new(
                        ErrorKind::Transient,
                        "the server is unavailable",
                    ))
                } else {
                    work.settle(done, now)
                }
            })
        }))
    }

    fn settle(&mut self, done: &mut Vec<Settled<u32, ()>>, _: Time) -> Result<(), Error> {
        for settled in done.drain(..) {
            let (Settled::Final(ticket, _) | Settled::Unsent(ticket, _)) = settled else {
                panic!("no item waits");
            };
            self.settled.push(ticket.task);
        }
        Ok(())
    }
}

/// Reports when calls start and end.
struct Calls {
    begins: Sender<u32>,
    ends: Sender<u32>,
    written: Receiver<()>,
}

impl Calls {
    fn call(&self, ticket: &Ticket<u32>) -> Reply<()> {
        let _ = self.begins.send(ticket.task);
        if ticket.task == 2 {
            let written = self.written.recv_timeout(PATIENCE);
            assert_eq!(written, Ok(()), "the first end was not written");
        }
        let _ = self.ends.send(ticket.task);
        Reply {
            result: Ok(()),
            paid: Paid::default(),
            hints: RateHints::default(),
            fatal: false,
        }
    }
}

fn carry_out_all(fails: bool) -> TwoItems {
    let (work, runner) = TwoItems::new(fails);
    let options = Options {
        concurrency: 2,
        retry: RetryPolicy::default(),
        on_error: ErrorPolicy::ContinueOnError,
        deadline: None,
        jitter: Random(1),
        durable: true,
        multi_tenant: false,
        no_shared_fate: false,
    };
    let dispatcher = Dispatcher::new(work, Arc::new(Limiter::new()), options);
    let (waker, woken) = Waker::new();
    let setup = RunSetup {
        ctx: &Context::new(),
        clock: &SystemClock,
        most_threads: 2,
        permits: None,
        waker,
        woken,
        every_call: false,
    };
    let mut observer = Observer {
        look: &|_: &mut Dispatcher<TwoItems>, _| (),
        show: &mut |()| (),
    };
    let call = |ticket: &Ticket<u32>, _: &Context| runner.call(ticket);
    let finish = run::<_, _, (), _>(dispatcher, &call, setup, None, &mut observer);
    let finish = finish.expect("threads can be started");
    assert!(finish.lost.is_empty());
    assert_eq!(finish.dispatcher.counters.in_flight, 0);
    finish.dispatcher.work
}

#[test]
fn calls_start_and_end_while_a_server_request_is_in_flight() {
    let work = carry_out_all(false);
    assert_eq!((work.settled, work.writes), (vec![1, 2], 2));
}

#[test]
fn a_failed_write_to_a_server_is_repeated() {
    let mut work = carry_out_all(true);
    work.settled.sort();
    assert_eq!(work.settled, [1, 2]);
}
