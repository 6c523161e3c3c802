//! A single call of a route as work for the dispatcher.

use crate::base::{Error, Time};
use crate::engine::availability::Availability;
use crate::engine::work::{Settled, Take, Ticket, Work};

use super::request::Request;
use super::response::Response;

/// The work of a single call.
pub(super) struct Single<'r> {
    pub(super) ticket: Option<Ticket<&'r Request>>,
    pub(super) due: Time,
    pub(super) result: Option<Result<Response, Error>>,
}

impl<'r> Work for Single<'r> {
    type Task = &'r Request;
    type Done = Response;

    fn take(
        &mut self,
        _: usize,
        availability: &Availability,
        now: Time,
    ) -> Result<Take<&'r Request>, Error> {
        let Some(ticket) = self.ticket.take() else {
            return Ok(Take::Done);
        };
        if self.due <= now && !availability.is_paused(&ticket.class, ticket.tries.step, now) {
            return Ok(Take::Items(vec![ticket]));
        }
        self.ticket = Some(ticket);
        Ok(Take::Idle {
            until: (self.due > now).then_some(self.due),
            source_open: false,
        })
    }

    fn settle(
        &mut self,
        done: &mut Vec<Settled<&'r Request, Response>>,
        _: Time,
    ) -> Result<(), Error> {
        for settled in done.drain(..) {
            match settled {
                Settled::Final(_, result) => self.result = Some(result),
                Settled::Unsent(_, error) => self.result = Some(Err(error)),
                Settled::Later(ticket, due, _) => {
                    self.ticket = Some(ticket);
                    self.due = due;
                }
            }
        }
        Ok(())
    }
}
