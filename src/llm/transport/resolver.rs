//! Names of hosts to addresses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ureq::http;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How long a resolved address is used.
const ADDRESS_LIFE: Duration = Duration::from_secs(60);

/// Looks a host up once a minute instead of before every request, and never on a thread of its
/// own, as ureq does for some time-outs.
#[derive(Debug, Default)]
pub(super) struct CachingResolver {
    inner: DefaultResolver,
    known: Mutex<HashMap<http::uri::Authority, (Instant, Vec<SocketAddr>)>>,
}

impl Resolver for CachingResolver {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let Some(authority) = uri.authority() else {
            return Err(ureq::Error::HostNotFound);
        };
        let now = Instant::now();
        let mut found = self.empty();
        if let Some((until, addresses)) = self.known.lock().get(authority)
            && now < *until
        {
            addresses.iter().for_each(|a| found.push(*a));
            return Ok(found);
        }
        let addresses = self.inner.resolve(uri, config, NextTimeout::default())?;
        let entry = (now + ADDRESS_LIFE, addresses.iter().copied().collect());
        self.known.lock().insert(authority.clone(), entry);
        Ok(addresses)
    }
}
