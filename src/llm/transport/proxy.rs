//! Which proxy a call goes through.

use ureq::{ProxyProtocol, http};

use crate::base::secret::redacted_url;

/// The proxy for a URL, by the usual variables: the one of its scheme, else `ALL_PROXY`.
pub(super) fn proxy_for(url: &str, env: impl Fn(&str) -> Option<String>) -> Option<ureq::Proxy> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if loopback {
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
    let is_http = |of: ProxyProtocol| matches!(of, ProxyProtocol::Http | ProxyProtocol::Https);
    let Some(parsed) = parsed.filter(|proxy| is_http(proxy.protocol())) else {
        log::warn!(
            "connecting without a proxy: {} is not the URL of an HTTP proxy",
            redacted_url(&setting)
        );
        return None;
    };
    let mut builder = ureq::Proxy::builder(parsed.protocol())
        .host(parsed.host())
        .port(parsed.port());
    if let Some(user) = parsed.username() {
        builder = builder.username(user);
    }
    if let Some(password) = parsed.password() {
        builder = builder.password(password);
    }
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
