//! A Redis (or Valkey) server with encrypted connections.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::common::{Desk, eventually, good};
use super::super::net::{authority, certified};
use super::super::queue_server::Server;
use super::Queue;

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A server on loopback that does not write to the disk. Its certificate is by the authority `ca.pem`, and not by
/// `other.pem`.
struct Redis {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Redis {
    /// The second port is for encrypted connections.
    fn start(port: u16, tls: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ((ca, issuer), (other, _)) = (authority(), authority());
        let (own, key) = certified(&issuer);
        for (name, text) in [
            ("ca.pem", ca),
            ("other.pem", other),
            ("own.pem", own.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let options = format!(
            "--port {port} --bind 127.0.0.1 --tls-port {tls} --tls-auth-clients no \
             --tls-ca-cert-file ca.pem --tls-cert-file own.pem --tls-key-file key.pem"
        );
        let start = |program: &str| {
            Command::new(program)
                .env("PATH", format!("{path}:/usr/sbin"))
                .args(options.split_whitespace().chain(["--save", ""]))
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
        };
        let process = start("redis-server").or_else(|_| start("valkey-server"));
        let process = process.unwrap();
        let server = Self {
            folder,
            port,
            process,
        };
        let answers = || server.ask("PING").is_ok_and(|answer| answer == "+PONG\r\n");
        assert!(eventually(answers), "Redis does not start");
        server
    }

    /// The first bytes of the reply to a command. The arguments must not contain spaces.
    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(connection, "{command}\r\n")?;
        let mut bytes = [0; 256];
        let length = connection.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A worker connects only if the authority in the address has issued the server's certificate.
#[test]
fn redis_is_reached_over_tls_by_its_authority() {
    let Some(server) = Server::new() else { return };
    let (desk, sim) = (Desk::with(1), good());
    let port = free_port();
    let redis = Redis::start(free_port(), port);
    let mut queue = Queue::on(&desk, server);
    for (authority, is_trusted) in [("other", false), ("ca", true)] {
        let folder = redis.folder.path().display();
        queue.redis = Some(format!(
            "rediss://127.0.0.1:{port}?ca={folder}/{authority}.pem"
        ));
        let worker = queue.work(&sim, "");
        if is_trusted {
            let listens = || {
                let listeners = redis.ask("PUBSUB NUMSUB batchwright:work").unwrap();
                listeners.ends_with(":1\r\n")
            };
            assert!(eventually(listens), "{}", worker.said());
        } else {
            worker.hears("cannot be used");
        }
        // The worker runs jobs in both cases.
        let answered = sim.stats().answered;
        queue.submit();
        assert!(eventually(|| sim.stats().answered > answered));
        worker.signal("TERM");
        let ended = worker.wait().expect(0);
        assert_eq!(ended.stderr.contains("cannot be used"), !is_trusted);
    }
}
