//! A Redis (or Valkey) server that a test may kill, restart and empty.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::super::common::{Desk, Running, eventually, good};
use super::{MariaDb, Queue, prompts, wanted};

/// A server on loopback that does not write to the disk.
pub struct Redis {
    folder: TempDir,
    port: u16,
    /// Its port for encrypted connections.
    tls: Option<u16>,
    process: Option<Child>,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Redis {
    pub fn new() -> Self {
        Self::with(None)
    }

    fn with(tls: Option<u16>) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
            tls,
            process: None,
        };
        if tls.is_some() {
            server.certify();
        }
        server.start();
        server
    }

    /// Writes its certificate, by an authority `ca.pem`, and another authority `other.pem`.
    fn certify(&self) {
        let authority = || {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let pem = params.self_signed(&key).unwrap().pem();
            (pem, Issuer::new(params, key))
        };
        let ((ca, issuer), (other, _)) = (authority(), authority());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let own = params.signed_by(&key, &issuer).unwrap().pem();
        let files = [
            ("ca.pem", ca),
            ("other.pem", other),
            ("own.pem", own),
            ("key.pem", key.serialize_pem()),
        ];
        for (name, text) in files {
            std::fs::write(self.folder.path().join(name), text).unwrap();
        }
    }

    /// Starts it, or restarts it empty.
    pub fn start(&mut self) {
        let path = std::env::var("PATH").unwrap_or_default();
        let port = self.port.to_string();
        let mut options = vec!["--port", &port, "--bind", "127.0.0.1", "--save", ""];
        let tls = self.tls.map(|port| port.to_string());
        if let Some(port) = &tls {
            options.extend(["--tls-port", port, "--tls-auth-clients", "no"]);
            options.extend(["--tls-ca-cert-file", "ca.pem", "--tls-cert-file", "own.pem"]);
            options.extend(["--tls-key-file", "key.pem"]);
        }
        let start = |program: &str| {
            let mut server = Command::new(program);
            server
                .env("PATH", format!("{path}:/usr/sbin"))
                .args(&options)
                .current_dir(self.folder.path())
                .stdout(Stdio::null());
            server.spawn()
        };
        let process = start("redis-server").or_else(|_| start("valkey-server"));
        self.process = Some(process.unwrap());
        let answers = || self.ask("PING").is_ok_and(|answer| answer == "+PONG\r\n");
        assert!(eventually(answers), "Redis does not start");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Deletes all of its keys.
    pub fn empty(&self) {
        assert_eq!(self.ask("FLUSHALL").unwrap(), "+OK\r\n");
    }

    /// The first bytes of the reply to a command. The arguments must not contain spaces.
    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(connection, "{command}\r\n")?;
        let mut bytes = [0; 256];
        let length = connection.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A worker connects only if the authority in the address has issued the server's certificate.
#[test]
fn redis_is_reached_over_tls_by_its_authority() {
    if !wanted() {
        return;
    }
    let (desk, server, sim) = (Desk::new(), MariaDb::primary(), good());
    let port = free_port();
    let redis = Redis::with(Some(port));
    let address = |authority: &str| {
        let folder = redis.folder.path().display();
        format!("rediss://127.0.0.1:{port}?ca={folder}/{authority}.pem")
    };
    prompts(&desk, 1);
    let mut queue = Queue::at(&desk, &[server.place()]);
    for (authority, is_trusted) in [("other", false), ("ca", true)] {
        queue.redis = Some(address(authority));
        let worker: Running = queue.work(&sim, "");
        if is_trusted {
            let listens = || {
                redis
                    .ask("PUBSUB NUMSUB batchwright:work")
                    .unwrap()
                    .ends_with(":1\r\n")
            };
            assert!(eventually(listens), "{}", worker.said());
        } else {
            worker.hears("cannot be used");
        }
        // The worker runs jobs in both cases.
        let process = queue.submit();
        queue.finished(&process, 1);
        worker.signal("TERM");
        let ended = worker.wait().expect(0);
        assert_eq!(ended.stderr.contains("cannot be used"), !is_trusted);
    }
}
