//! The page at `/`: running and waiting jobs, and the settings, in one file without external resources.

pub(crate) mod page;

use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::router::Route;
use crate::tokens::Access::Open;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[Route::get("/", Open, page)];

/// `GET /`: the dashboard. It holds no data, so it is sent without a token; its script asks for one where the
/// server wants it.
fn page(app: &App, call: &mut Call<'_>) -> Result<Response, Problem> {
    let page = &app.page;
    let known = call.head.header("if-none-match").unwrap_or_default();
    let same = known
        .split(',')
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == page.etag || tag == "*");
    let response = if same {
        Response::empty(304)
    } else {
        Response::full(200, "text/html; charset=utf-8", page.html)
    };
    Ok(response
        .header("cache-control", "no-cache")
        .header("etag", page.etag.clone())
        .header("content-security-policy", page.policy.clone()))
}
