//! The way from a request to its handler.

use std::net::SocketAddr;

use crate::app::App;
use crate::http::{self, Answer, Head, Response};
use crate::problem::Problem;
use crate::router::{self, Route};
use crate::tokens::{Access, Caller};
use crate::{api, dashboard, openai, webhooks};

pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    [
        api::ROUTES,
        openai::ROUTES,
        webhooks::ROUTES,
        dashboard::ROUTES,
    ]
    .into_iter()
    .flatten()
}

impl http::Service for App {
    fn retry_after(&self) -> u64 {
        self.waiters.retry_after()
    }

    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<Answer<'_>, Response> {
        let refused = |problem: Problem| problem.response(&head.path);
        self.guard.check(head, reached).map_err(refused)?;
        let found = router::route(routes(), head);
        let caller = match &found {
            Ok((route, _)) if route.access == Access::Open => Caller::default(),
            _ => self.guard.caller(head).map_err(refused)?,
        };
        let (route, params) = found.map_err(refused)?;
        caller
            .check(route.access, &head.method, &head.path)
            .map_err(refused)?;
        Ok(Box::new(move |call| {
            call.params = params;
            call.caller = caller;
            let allowed = self.check_owner(call);
            let response = allowed.and_then(|()| (route.handler)(self, call));
            response.unwrap_or_else(|problem| problem.response(&call.head.path))
        }))
    }
}
