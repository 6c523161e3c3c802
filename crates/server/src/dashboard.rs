//! The page at `/`: running and waiting jobs, and the settings, in one file without external resources, and the policy that
//! lets it run its own script alone.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::access::Access::Open;
use crate::app::App;
use crate::http::{Call, Response};
use crate::problem::Problem;
use crate::route::Route;

/// The routes of this module.
pub(crate) const ROUTES: &[Route] = &[Route::get("/", Open, page)];

/// Style and script included, so that it takes one request.
const PAGE: &str = include_str!("dashboard/index.html");

static POLICY: LazyLock<String> = LazyLock::new(|| policy(PAGE));

/// `GET /`: the dashboard. It holds no data, so it is sent without a token; its script asks for one where the
/// server wants it.
fn page(_: &App, _: &mut Call<'_>) -> Result<Response, Problem> {
    Ok(
        Response::full(200, "text/html; charset=utf-8", PAGE.as_bytes())
            .header("cache-control", "no-cache")
            .header("content-security-policy", POLICY.as_str()),
    )
}

/// Allows only this page's own style and script, by hash, and connections to this server. Texts of jobs cannot become
/// style or script, because the page never inserts a text as markup.
fn policy(page: &str) -> String {
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
        hash(inside(page, "style")),
        hash(inside(page, "script")),
    )
}

fn hash(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

/// The content of the page's only element with this name.
fn inside<'p>(page: &'p str, name: &str) -> &'p str {
    let inside = page.split_once(&format!("<{name}>")).and_then(|(_, rest)| {
        let (inside, rest) = rest.split_once(&format!("</{name}>"))?;
        (!rest.contains(&format!("<{name}"))).then_some(inside)
    });
    inside.expect("the page has one element of the name, without attributes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_one_small_file() {
        assert!(PAGE.len() < 100_000, "{} bytes", PAGE.len());
        let names = ["src", "href", "action", "poster", "srcset"];
        for name in names.map(|name| format!("{name}=\"")) {
            for rest in PAGE.split(&name).skip(1) {
                let (place, _) = rest.split_once('"').expect("an attribute ends");
                let here = place.starts_with(['#', '/']) && !place.starts_with("//");
                assert!(here || place.starts_with("data:image/svg+xml,"), "{place}");
            }
        }
        let style = inside(PAGE, "style");
        assert!(!style.contains("url(") && !style.contains("@import"));
    }

    /// Texts of jobs and providers never become markup.
    #[test]
    fn no_text_becomes_markup() {
        let script = inside(PAGE, "script");
        let ways = "innerHTML outerHTML insertAdjacentHTML document.write setHTML DOMParser \
                    createContextualFragment eval( Function(";
        for way in ways.split(' ') {
            assert!(!script.contains(way), "{way}");
        }
        let (markup, _) = PAGE.split_once("<script>").expect("there is one");
        assert!(
            !markup.contains(" style=\"") && !markup.contains(" on"),
            "inline styles and handlers need a weaker policy"
        );
    }

    #[test]
    fn hashes_are_those_of_the_style_and_the_script() {
        // From `printf 'a{}' | openssl dgst -sha256 -binary | base64`, and the same of `b()`.
        let policy = policy("<title>x</title><style>a{}</style><p></p><script>b()</script>");
        assert!(
            policy.contains("style-src 'sha256-X1RutGBrXCt9KkSaXMK7tHftWiRscFHOhxsS8tv8hBk=';"),
            "{policy}"
        );
        assert!(
            policy.contains("script-src 'sha256-cf242PFc/kb7xD0Qzhsmd9vvRkc+cWFmbi+k+YvtdKc=';"),
            "{policy}"
        );
        assert!(!POLICY.contains("unsafe"));
    }
}
