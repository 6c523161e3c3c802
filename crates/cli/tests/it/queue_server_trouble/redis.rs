//! A Redis (or Valkey) that a test may kill, start again and empty.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::common::eventually;

/// A server on loopback that keeps nothing on the disk.
pub struct Redis {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl Redis {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            port,
            process: None,
        };
        server.start();
        server
    }

    /// Starts it, or starts it again with nothing in it.
    pub fn start(&mut self) {
        let path = std::env::var("PATH").unwrap_or_default();
        let port = self.port.to_string();
        let options = ["--port", &port, "--bind", "127.0.0.1", "--save", ""];
        let start = |program: &str| {
            let mut server = Command::new(program);
            server
                .env("PATH", format!("{path}:/usr/sbin"))
                .args(options)
                .current_dir(self.folder.path())
                .stdout(Stdio::null());
            server.spawn()
        };
        let process = start("redis-server").or_else(|_| start("valkey-server"));
        self.process = Some(process.unwrap());
        let answers = || self.try_command("PING").is_ok_and(|line| line == "+PONG");
        assert!(eventually(answers), "Redis does not start");
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Removes all that is in it.
    pub fn empty(&self) {
        assert_eq!(self.try_command("FLUSHALL").unwrap(), "+OK");
    }

    /// The first line of the answer to a command without arguments.
    fn try_command(&self, command: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(connection, "{command}\r\n")?;
        let mut bytes = [0; 64];
        let length = connection.read(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        Ok(text.lines().next().unwrap_or_default().to_owned())
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
