//! Which proxy a call goes through.

use ureq::{ProxyProtocol, http};

use crate::base::Optional;
use crate::base::secret::redacted_url;

/// Whether a URL names a server of this machine by its loopback address, or as `localhost`.
pub(crate) fn is_loopback_url(url: &str) -> bool {
    let uri = url.parse::<http::Uri>().ok();
    // Servers print the address that they listen at.
    let is_own = |host: &str| is_on_this_machine(host) || host == "0.0.0.0";
    uri.is_some_and(|uri| uri.host().is_some_and(is_own))
}

fn is_on_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let ip = host.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The proxy for a URL, from the usual variables: the one for its scheme, else `ALL_PROXY`.
pub(super) fn proxy_for(url: &str, env: impl Fn(&str) -> Option<String>) -> Option<ureq::Proxy> {
    let uri: http::Uri = url.parse().ok()?;
    if is_on_this_machine(uri.host()?) {
        return None;
    }
    let names: &[&str] = match uri.scheme_str() {
        Some("https") => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let setting = names
        .iter()
        .find_map(|name| env(name).filter(|value| !value.trim().is_empty()))?;
    let parsed = ureq::Proxy::new(setting.trim()).ok();
    let is_http = |proxy: &ureq::Proxy| proxy.protocol() == ProxyProtocol::Http;
    let Some(parsed) = parsed.filter(is_http) else {
        log::warn!(
            "connecting without a proxy: {} is not the URL of an HTTP proxy",
            redacted_url(&setting)
        );
        return None;
    };
    let mut builder = ureq::Proxy::builder(parsed.protocol())
        .host(parsed.host())
        .port(parsed.port())
        .set(parsed.username(), |builder, user| builder.username(user))
        .set(parsed.password(), |builder, password| {
            builder.password(password)
        });
    let exempt = env("NO_PROXY")
        .or_else(|| env("no_proxy"))
        .unwrap_or_default();
    for entry in exempt.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        builder = builder.no_proxy(entry);
        // By custom a bare domain exempts its subdomains too.
        if !entry.starts_with(['*', '.']) {
            builder = builder.no_proxy(&format!(".{entry}"));
        }
    }
    builder.build().ok()
}
