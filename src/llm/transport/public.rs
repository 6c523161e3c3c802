//! Public IP addresses. Clients of this program's server must not make it call addresses that only the server can
//! reach.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Resolves a name and omits addresses that are not public. The connection goes to a checked address, even if the
/// name resolves to another one a moment later.
#[derive(derive_more::Debug)]
pub struct PublicResolver {
    private: bool,
    inner: DefaultResolver,
}

impl PublicResolver {
    /// If `private` is true, no address is omitted.
    pub fn new(private: bool) -> Self {
        Self {
            private,
            inner: DefaultResolver::default(),
        }
    }
}

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let all = self.inner.resolve(uri, config, timeout)?;
        let mut left = self.empty();
        let may = |address: IpAddr| self.private || is_public_address(address);
        let public = all.iter().filter(|address| may(address.ip()));
        public.for_each(|address| left.push(*address));
        if !left.is_empty() {
            Ok(left)
        } else {
            let why = "the host has no public address, and only public addresses are allowed";
            Err(io::Error::new(io::ErrorKind::PermissionDenied, why).into())
        }
    }
}

/// Whether an address is reachable from anywhere, according to the registries of IANA.
pub fn is_public_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let of_protocols = (a, b, c) == (192, 0, 0);
    let relays = (a, b, c) == (192, 88, 99);
    let measures = a == 198 && (18..20).contains(&b);
    let reserved = a == 0 || a >= 240;
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || shared
        || of_protocols
        || relays
        || measures
        || reserved)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, c, d, .., y, z] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    match (a, b) {
        // Translated and tunnelled addresses contain an IPv4 address, which decides.
        (0x64, 0xff9b) if c == 0 && d == 0 => is_public_v4(v4(y, z)),
        (0x2002, _) => is_public_v4(v4(b, c)),
        // Addresses for protocols, benchmarks, Teredo and documentation.
        (0x2001, 0..0x200 | 0xdb8) | (0x3fff, 0..0x1000) => false,
        _ => (0x2000..0x4000).contains(&a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_private_addresses_are_not_public() {
        let local = "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 \
            192.0.0.8 192.0.2.1 192.168.0.1 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 \
            ::ffff:127.0.0.1 ::ffff:192.168.0.1 ::127.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2001::1 2001:db8::1 \
            2002:7f00:1:: fc00::1 fd12::1 fe80::1 ff02::1";
        for address in local.split(' ') {
            assert!(!is_public_address(address.parse().unwrap()), "{address}");
        }
        let public = "1.1.1.1 100.63.0.1 172.32.0.1 192.0.1.1 ::ffff:1.1.1.1 64:ff9b::101:101 2001:4860:4860::8888 \
            2002:101:101:: 2606:4700::1111";
        for address in public.split(' ') {
            assert!(is_public_address(address.parse().unwrap()), "{address}");
        }
    }
}
