//! The way of a request to its handler: the tables of routes, and what each asks of a token.

use std::net::SocketAddr;

use batchwright::unstable::replacement;

use crate::access::Access;
use crate::app::App;
use crate::http::{self, Answer, Head, Response, decoded};
use crate::problem::{Problem, is_of_v1};
use crate::route::Route;
use crate::{api, dashboard, openai};

/// Removed endpoints, each with what to use instead.
const REMOVED: &str = include_str!("../data/removed.txt");

/// The values of the names in a pattern.
type Params = Vec<(&'static str, String)>;

/// The route of this request, with the values of the names in its pattern.
///
/// # Errors
/// 404 for a path that nothing has, 405 for a method that the path does not know.
pub(crate) fn route(
    routes: impl Iterator<Item = &'static Route>,
    head: &Head,
) -> Result<(&'static Route, Params), Problem> {
    let mut allowed = Vec::new();
    for route in routes {
        let Some(params) = fit(route.path, &head.path) else {
            continue;
        };
        // The response to HEAD is that to GET without its body, which the connection omits.
        if route.method == head.method || (route.method == "GET" && head.method == "HEAD") {
            return Ok((route, params));
        }
        allowed.push(route.method);
    }
    let removed = removed(head).map(|instead| {
        let (method, path) = (&head.method, &head.path);
        format!("{method} {path} was removed; {instead}")
    });
    if allowed.is_empty() {
        if let Some(why) = removed {
            return Err(Problem::not_found(why));
        }
        let why = format!(
            "the path {} does not exist; GET /api/v1/openapi.json lists all paths",
            head.path
        );
        return Err(Problem::not_found(why));
    }
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let why =
        removed.unwrap_or_else(|| format!("{} accepts {allowed}, not {}", head.path, head.method));
    Err(Problem::new(405, "method_not_allowed", why).header("allow", allowed))
}

/// What to use instead of an endpoint that was removed.
fn removed(head: &Head) -> Option<&'static str> {
    let keys = REMOVED.lines().filter_map(|line| line.split_once(" | "));
    let mut keys = keys.map(|(key, _)| key);
    let key = keys.find(|key| {
        let (method, path) = key.split_once(' ').unwrap_or_default();
        method == head.method && fit(path, &head.path).is_some()
    })?;
    replacement(REMOVED, key)
}

/// The values of the names in the pattern, if the path matches. No value is `.` or `..` or contains a separator, so
/// none leads out of a folder.
fn fit(pattern: &'static str, path: &str) -> Option<Params> {
    let mut params = Vec::new();
    let mut parts = path.split('/');
    for expected in pattern.split('/') {
        let part = parts.next()?;
        let name = expected
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'));
        match name {
            Some(name) => {
                let part = decoded(part);
                let odd = part.contains(['/', '\\', '\0']) || part == "." || part == "..";
                if part.is_empty() || odd {
                    return None;
                }
                params.push((name, part));
            }
            None if expected != part => return None,
            None => {}
        }
    }
    parts.next().is_none().then_some(params)
}

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
        let found = route(routes(), head).map_err(|problem| {
            if problem.status == 404 && is_of_v1(&head.path) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_one_part_of_a_path() {
        let fits = |path| fit("/a/{id}/b", path).map(|params| params[0].1.clone());
        assert_eq!(fits("/a/x%20y/b").as_deref(), Some("x y"));
        let others = "/a//b /a/x /a/x/b/ /a/x/y/b /a/../b /a/%2e%2e/b /a/x%2fy/b /a/%00/b a/x/b";
        for path in others.split(' ') {
            assert_eq!(fits(path), None, "{path}");
        }
    }
}
