//! The way from a request to its handler.

use std::net::SocketAddr;

use crate::app::App;
use crate::http::{self, Answer, Head, Response};
use crate::origin::PublicUrl;
use crate::problem::Problem;
use crate::router::{self, Route};
use crate::tokens::Access;
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
    fn retry_after(&self) -> u64 {
        self.waiters.retry_after()
    }

    fn headers(&self, head: &Head) -> Vec<(&'static str, String)> {
        self.guard.cors.headers(head)
    }

    fn admit(&self, head: &mut Head, reached: SocketAddr) -> Result<Answer<'_>, Response> {
        let base = self.guard.public_url.as_ref().map_or("", PublicUrl::path);
        if let Some(url) = &self.guard.public_url {
            head.path = url.strip(&head.path).to_owned();
        }
        let head = &*head;
        let refused = |problem: Problem| problem.response(&head.path);
        self.guard.check(head, reached).map_err(refused)?;
        if let Some(response) = self.guard.cors.preflight(head) {
            return Err(response);
        }
        if head.path.is_empty() {
            // Without the `/`, the browser would resolve the links of the page wrongly.
            return Err(Response::empty(307).header("location", format!("{base}/")));
        }
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
            let response = (route.handler)(self, call).unwrap_or_else(|problem| {
                problem.log(&call.head.request_id);
                problem.response(&call.head.path)
            });
            with_base(response, base)
        }))
    }
}

/// Handlers write paths of this server into `location`; clients need the path before it, too.
fn with_base(mut response: Response, base: &str) -> Response {
    let mut headers = response.headers.iter_mut();
    if let Some((_, place)) = headers.find(|(name, _)| *name == "location") {
        place.insert_str(0, base);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::OWN_PATHS;

    /// A public URL below the path of a route would be ambiguous.
    #[test]
    fn every_route_is_below_a_path_that_no_public_url_has() {
        for route in routes().filter(|route| route.path != "/") {
            let is_below = |own: &&str| {
                let rest = route.path.strip_prefix(*own);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            assert!(OWN_PATHS.iter().any(is_below), "{}", route.path);
        }
    }
}
