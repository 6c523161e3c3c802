//! The page at `/`: running and waiting jobs, and the settings, in one file without external resources.

pub(crate) mod page;

use crate::access::Access::Open;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::route::Route;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[Route::get("/", Open, page)];

/// `GET /`: the dashboard. It holds no data, so it is sent without a token; its script asks for one where the
/// server wants it.
fn page(app: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    let page = &app.page;
    Ok(Response::full(200, "text/html; charset=utf-8", page.html)
        .header("cache-control", "no-cache")
        .header("content-security-policy", page.policy.clone()))
}
