//! Where a call goes: the server and the resource of a URL, and the proxy in between.

use ureq::ProxyProtocol;
use ureq::http::{self, Uri};

use crate::base::secret::redacted_url;
use crate::base::{Error, ErrorKind, Optional};

use super::headers::basic;

/// The parts of a URL.
pub(super) struct Target {
    pub url: String,
    pub uri: Uri,
    pub tls: bool,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Host and port as in the URL.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// The credentials in the URL as the value of `authorization`.
    pub basic: Option<String>,
}

impl Target {
    /// `None` unless the scheme is `http` or `https`, with a host, and either no port or a valid one.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let tls = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?;
        if uri.port_u16().is_none() && !uri.authority()?.as_str().ends_with(host) {
            return None;
        }
        let port = uri.port_u16().unwrap_or([80, 443][usize::from(tls)]);
        let authority = match uri.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Some(Self {
            url: url.to_owned(),
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority,
            path,
            basic: credentials(&uri),
            uri,
        })
    }

    /// Whether a connection to the server of one reaches that of the other.
    pub fn is_same_server(&self, other: &Self) -> bool {
        (self.tls, self.port, &self.host) == (other.tls, other.port, &other.host)
    }
}

pub(crate) fn is_callable(url: &str) -> bool {
    Target::parse(url).is_some()
}

/// The value of `authorization` for the user and the password of a URL.
fn credentials(uri: &Uri) -> Option<String> {
    let (user, _) = uri.authority()?.as_str().rsplit_once('@')?;
    let colon = if user.contains(':') { "" } else { ":" };
    Some(basic(&format!("{user}{colon}")))
}

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

/// The proxy for a URL, from the usual variables: the one for its scheme, else `ALL_PROXY`. One that cannot be used is an
/// error, unless `NO_PROXY` exempts the host: nobody wants that calls bypass it.
pub(super) fn proxy_for(
    url: &str,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Option<ureq::Proxy>, Error> {
    let uri: Option<http::Uri> = url.parse().ok();
    let is_far = |uri: &http::Uri| uri.host().is_some_and(|host| !is_on_this_machine(host));
    let Some(uri) = uri.filter(is_far) else {
        return Ok(None);
    };
    let names: &[&str] = match uri.scheme_str() {
        Some("https") => &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        _ => &["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"],
    };
    let mut set = names.iter().filter_map(|name| Some((name, env(name)?)));
    let Some((name, setting)) = set.find(|(_, value)| !value.trim().is_empty()) else {
        return Ok(None);
    };
    let parsed = ureq::Proxy::new(setting.trim()).ok();
    let is_http = |proxy: &ureq::Proxy| proxy.protocol() == ProxyProtocol::Http;
    let usable = parsed.filter(is_http);
    let mut builder = ureq::Proxy::builder(ProxyProtocol::Http);
    builder = match &usable {
        Some(proxy) => builder
            .host(proxy.host())
            .port(proxy.port())
            .set(proxy.username(), |builder, user| builder.username(user))
            .set(proxy.password(), |builder, password| {
                builder.password(password)
            }),
        None => builder.host("unusable"),
    };
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
    match builder.build().ok() {
        Some(proxy) if usable.is_some() => Ok(Some(proxy)),
        Some(proxy) if proxy.is_no_proxy(&uri) => Ok(None),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{name} is {}, and only proxies at http:// addresses are supported: set one of those, or exempt the \
                 provider's host with NO_PROXY",
                redacted_url(setting.trim())
            ),
        )),
    }
}
