//! The way from a request to its handler.

use std::net::SocketAddr;

use crate::app::App;
use crate::http::{self, Answer, Head, Response};
use crate::problem::Problem;
use crate::router::{self, Route};
use crate::tokens::Access;
use crate::{api, dashboard, openai};

pub(crate) fn routes() -> impl Iterator<Item = &'static Route> {
    [api::ROUTES, openai::ROUTES, dashboard::ROUTES]
        .into_iter()
        .flatten()
}

/// A compressed body would be taken for one that is damaged, and its real size is not known before it is decoded.
fn check_encoding(head: &Head) -> Result<(), Problem> {
    let encoding = head.header("content-encoding").unwrap_or("identity");
    if !head.has_body || encoding.eq_ignore_ascii_case("identity") {
        return Ok(());
    }
    let why = format!("content-encoding: send the body uncompressed, not as {encoding:?}");
    Err(Problem::unsupported_media_type(why).header("accept-encoding", "identity"))
}

impl http::Service for App {
    fn admit(&self, head: &Head, reached: SocketAddr) -> Result<Answer<'_>, Response> {
        let refused = |problem: Problem| problem.response(&head.path);
        self.guard.check(head, reached).map_err(refused)?;
        let found = router::route(routes(), head).map_err(|problem| {
            if problem.status == 404 && head.path.starts_with("/v1/") {
                openai::unknown(&head.method, &head.path)
            } else {
                problem
            }
        });
        let access = found
            .as_ref()
            .map_or(Access::Read, |(route, _)| route.access);
        if access != Access::Open {
            let role = self.guard.role(head).map_err(refused)?;
            let allowed = role.check(access, &head.method, &head.path);
            allowed.map_err(refused)?;
        }
        let (route, params) = found.map_err(refused)?;
        check_encoding(head).map_err(refused)?;
        Ok(Box::new(move |call| {
            call.params = params;
            (route.handler)(self, call).unwrap_or_else(|problem| {
                problem.log(&call.head.request_id);
                problem.response(&call.head.path)
            })
        }))
    }
}
