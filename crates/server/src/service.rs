//! The way from a request to its handler.

use std::net::SocketAddr;

use crate::app::App;
use crate::http::{self, Call, Head, Response};
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
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<(), Response> {
        self.guard
            .check(head, reached)
            .and_then(|()| router::route(routes(), head).map(drop))
            .map_err(|problem| problem.response(&head.path))
    }

    fn answer(&self, call: &mut Call<'_>) -> Response {
        let answer = |call: &mut Call<'_>| -> Result<Response, Problem> {
            let (handler, params) = router::route(routes(), &call.head)?;
            call.params = params;
            handler(self, call)
        };
        answer(call).unwrap_or_else(|problem| problem.response(&call.head.path))
    }
}
