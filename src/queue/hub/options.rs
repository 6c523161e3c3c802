//! The address of Redis and the credentials for it.

use std::fs;
use std::path::PathBuf;

use derive_setters::Setters;
use redis::{Client, IntoConnectionInfo, TlsCertificates};

use crate::base::secret_file;
use crate::base::{Error, ErrorKind, Secret};

/// The variable with the password, and the variable with the name of a file that contains it.
const PASSWORD: &str = "BATCHWRIGHT_REDIS_PASSWORD";
const PASSWORD_FILE: &str = "BATCHWRIGHT_REDIS_PASSWORD_FILE";

/// The connection settings of Redis or Valkey. `Debug` shows no password.
#[derive(Clone, derive_more::Debug, Setters)]
#[setters(generate = false, strip_option)]
#[debug("RedisOptions")]
pub struct RedisOptions {
    address: Secret,
    /// The password, unless the address has one.
    #[setters(generate)]
    password: Option<Secret>,
    /// A file whose first line is the password, unless the address has one.
    #[setters(generate, into)]
    password_file: Option<PathBuf>,
}

impl RedisOptions {
    /// A server by its address: `redis://USER:PASSWORD@HOST:PORT/NUMBER`, or `rediss://…` for an encrypted connection.
    /// User, password, port and number of the database are optional. `?ca=FILE` names the certificate authority for the
    /// server's certificate, in PEM; default: the system's authorities.
    ///
    /// If the address has no password, it comes from [`password`](Self::password), else from
    /// [`password_file`](Self::password_file), else from the variable `BATCHWRIGHT_REDIS_PASSWORD`, else from the file
    /// that `BATCHWRIGHT_REDIS_PASSWORD_FILE` names.
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: Secret::new(address),
            password: None,
            password_file: None,
        }
    }

    /// The client, not connected yet, and the address for messages.
    pub(super) fn client(&self) -> Result<(Client, String), Error> {
        let address = self.address.expose();
        let (plain, parameters) = address.split_once('?').unwrap_or((address, ""));
        let scheme = plain.split("://").next().unwrap_or_default();
        let shape = || {
            invalid(
                "the address of Redis is expected to look like redis://HOST:6379 or rediss://USER@HOST:6379/0, with % and \
                 two digits for special characters in USER",
            )
        };
        if !["redis", "rediss", "valkey", "valkeys"].contains(&scheme) || plain.contains('#') {
            return Err(shape());
        }
        let authority = match parameters.split_once('=') {
            None if parameters.is_empty() => None,
            Some(("ca", file)) if !file.contains('&') => Some(PathBuf::from(file)),
            _ => {
                return Err(invalid(
                    "the address of Redis has a parameter that is not known; ca is",
                ));
            }
        };
        // The client's own message would repeat the address.
        let info = plain.into_connection_info().map_err(|_| shape())?;
        let location = format!("{scheme}://{}", info.addr());
        let mut login = info.redis_settings().clone();
        if login.password().is_none() {
            let (password, file) = (self.password.as_ref(), self.password_file.as_deref());
            if let Some(found) =
                secret_file::password("Redis", password, file, [PASSWORD, PASSWORD_FILE])?
            {
                login = login.set_password(found);
            }
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let client = match authority {
            None => Client::open(info),
            Some(file) => {
                let pem = fs::read(&file).map_err(|error| {
                    let file = file.display();
                    invalid(format!(
                        "the authority of Redis, {file}, cannot be read: {error}"
                    ))
                })?;
                let certificates = TlsCertificates {
                    client_tls: None,
                    root_cert: Some(pem),
                };
                Client::build_with_tls(info, certificates)
            }
        };
        let client = client
            .map_err(|_| invalid("the authority of Redis is not usable: ca names a file in PEM"))?;
        Ok((client, location))
    }
}

fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_about_redis_has_its_password() {
        let options = RedisOptions::new("rediss://me:s3cret@cache.example:6380/2");
        assert!(!format!("{options:?}").contains("s3cret"));
        let (client, location) = options.client().unwrap();
        assert_eq!(location, "rediss://cache.example:6380");
        let login = client.get_connection_info().redis_settings();
        let known = (login.username(), login.password(), login.db());
        assert_eq!(known, (Some("me"), Some("s3cret"), 2));
    }

    #[test]
    fn the_password_of_redis_comes_from_a_file_unless_the_address_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "from a file\n").unwrap();
        let found = |address: &str| {
            let options = RedisOptions::new(address).password_file(&file);
            let (client, _) = options.client().unwrap();
            let login = client.get_connection_info().redis_settings();
            login.password().map(str::to_owned)
        };
        assert_eq!(found("redis://127.0.0.1").as_deref(), Some("from a file"));
        assert_eq!(found("redis://:own@127.0.0.1").as_deref(), Some("own"));
    }

    #[test]
    fn invalid_redis_addresses_are_rejected_without_quoting_them() {
        for address in [
            "s3cret",
            "http://me:s3cret@host",
            "redis://me:s3cret@host?what=s3cret",
            "redis://me:s3cret@host/0#insecure",
            "rediss://me:s3cret@host?ca=/nowhere/s",
        ] {
            let error = RedisOptions::new(address).client().expect_err(address);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
