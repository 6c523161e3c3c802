//! The way from a request to its handler.

use std::net::SocketAddr;

use crate::app::App;
use crate::http::{self, Answer, Head, Response};
use crate::problem::Problem;
use crate::router::{self, Route};
use crate::{api, dashboard, openai, webhooks};

fn routes() -> impl Iterator<Item = &'static Route> {
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
        let (handler, params) = router::route(routes(), head).map_err(refused)?;
        Ok(Box::new(move |call| {
            call.params = params;
            handler(self, call).unwrap_or_else(|problem| {
                problem.log(&call.head.request_id);
                problem.response(&call.head.path)
            })
        }))
    }
}
