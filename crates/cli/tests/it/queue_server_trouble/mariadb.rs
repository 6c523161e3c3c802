//! MariaDB servers that a test may kill: one that accepts writes, and one standby.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::super::common::eventually;

/// The user of the tests, and the password; the servers are reachable only from this machine.
pub const USER: &str = "batchwright";
pub const PASSWORD: &str = "only-for-a-test";

/// A server with a separate folder.
pub struct MariaDb {
    folder: TempDir,
    id: u32,
    port: u16,
    stands_by: bool,
    process: Option<Child>,
}

impl MariaDb {
    /// Creates the folder of a server and starts the server.
    fn new(id: u32, stands_by: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let mut server = Self {
            folder,
            id,
            port,
            stands_by,
            process: None,
        };
        // The server refuses to run as root.
        let _ = Command::new("chown")
            .arg("mysql")
            .arg(server.folder.path())
            .output();
        let mut install = server.program("mariadb-install-db");
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        let installed = install.output().unwrap();
        assert!(installed.status.success(), "{installed:?}");
        server.start();
        server
    }

    /// A server that accepts writes.
    pub fn primary() -> Self {
        let server = Self::new(1, false);
        server.sql(&format!(
            "CREATE DATABASE batchwright CHARACTER SET utf8mb4;
             CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
             GRANT ALL ON batchwright.* TO {USER}@'127.0.0.1';
             CREATE USER copier@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
             GRANT REPLICATION SLAVE ON *.* TO copier@'127.0.0.1'"
        ));
        server
    }

    /// A standby that receives every commit of the other server before a client does.
    pub fn replica(of: &Self) -> Self {
        let server = Self::new(of.id + 1, true);
        server.sql(&format!(
            "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {}, MASTER_USER = 'copier',
               MASTER_PASSWORD = '{PASSWORD}', MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1;
             START SLAVE",
            of.port
        ));
        let waits = || {
            let status = of.sql("SHOW STATUS LIKE 'Rpl_semi_sync_master_clients'");
            status.trim_end().ends_with('1')
        };
        assert!(eventually(waits), "the replica does not come");
        let knows = || !server.sql("SHOW DATABASES LIKE 'batchwright'").is_empty();
        assert!(eventually(knows), "the replica copies nothing");
        server
    }

    fn program(&self, name: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("env");
        command
            .arg(format!("PATH={path}:/usr/sbin"))
            .arg(name)
            .arg("--no-defaults");
        let folder = self.folder.path().display();
        command.arg(format!("--datadir={folder}/data"));
        // Servers that are created at the same time have temporary tables with the same names.
        command.arg(format!("--tmpdir={folder}"));
        if self.folder_is_given() {
            command.arg("--user=mysql");
        }
        command
    }

    fn folder_is_given(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        self.folder.path().metadata().unwrap().uid() != 0
            && Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
    }

    /// Starts it, or restarts it.
    pub fn start(&mut self) {
        let folder = self.folder.path().display().to_string();
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut command = self.program("mariadbd");
        command.args([
            format!("--socket={folder}/socket"),
            format!("--pid-file={folder}/pid"),
            format!("--port={}", self.port),
            format!("--server-id={}", self.id),
            format!("--read-only={}", u8::from(self.stands_by)),
        ]);
        command.args([
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--log-bin=changes",
            "--log-slave-updates",
            "--binlog-format=ROW",
            "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
            "--innodb-flush-log-at-trx-commit=2",
            "--innodb-buffer-pool-size=256M",
            "--max-connections=600",
        ]);
        // Commits are on the other server before they are acknowledged.
        let role = if self.stands_by { "slave" } else { "master" };
        command.arg(format!("--rpl-semi-sync-{role}-enabled=ON"));
        // If the other server is gone, it stops waiting for it after this time.
        command.arg("--rpl-semi-sync-master-timeout=2000");
        self.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let answers = || self.client("SELECT 1").status.success();
        assert!(eventually(answers), "{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Kills it without a shutdown.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Makes the replica the server that accepts writes, after it has applied all received changes.
    pub fn promote(&mut self) {
        self.sql("STOP SLAVE IO_THREAD");
        let done = || {
            let status = self.sql("SHOW SLAVE STATUS");
            status.contains("Slave has read all relay log")
        };
        assert!(
            eventually(done),
            "the replica does not carry out what it has"
        );
        self.sql("STOP SLAVE; RESET SLAVE ALL; SET GLOBAL read_only = OFF");
        self.stands_by = false;
    }

    fn client(&self, sql: &str) -> std::process::Output {
        let socket = format!("--socket={}/socket", self.folder.path().display());
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", &socket, "-N", "-e", sql]);
        client.output().unwrap()
    }

    pub fn sql(&self, sql: &str) -> String {
        let done = self.client(sql);
        assert!(done.status.success(), "{done:?}\n{}", self.log());
        String::from_utf8(done.stdout).unwrap()
    }

    /// Its address.
    pub fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}
