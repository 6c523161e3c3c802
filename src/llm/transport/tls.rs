//! The settings of TLS: the certificates that the system trusts.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls_platform_verifier::BuilderVerifierExt;

/// The settings. They are created at the first use, because that reads all certificates of the system.
pub(super) fn config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: Mutex<Option<Arc<ClientConfig>>> = Mutex::new(None);
    let mut known = CONFIG.lock();
    if let Some(config) = &*known {
        return Ok(config.clone());
    }
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_platform_verifier())
        .map_err(io::Error::other)?
        .with_no_client_auth();
    Ok(known.insert(Arc::new(config)).clone())
}
