//! MariaDB servers that a test may kill: one that accepts writes, and one standby.

use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use super::super::common::eventually;
use super::redis::free_port;

/// The user of the tests, and the password; the servers are reachable only from this machine.
pub const USER: &str = "batchwright";
pub const PASSWORD: &str = "only-for-a-test";

/// A server with a separate folder.
pub struct MariaDb {
    folder: TempDir,
    port: u16,
    process: Option<Child>,
}

impl MariaDb {
    /// Creates the folder of a server and starts the server.
    fn new(stands_by: bool) -> Self {
        let mut server = Self {
            folder: tempfile::tempdir().unwrap(),
            port: free_port(),
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

        let folder = server.folder.path().display().to_string();
        let log = std::fs::File::create(server.folder.path().join("log")).unwrap();
        // Commits are on the other server before they are acknowledged.
        let role = if stands_by { "slave" } else { "master" };
        let mut command = server.program("mariadbd");
        command
            .args([
                format!("--socket={folder}/socket"),
                format!("--pid-file={folder}/pid"),
                format!("--port={}", server.port),
                format!("--server-id={}", 1 + u8::from(stands_by)),
                format!("--read-only={}", u8::from(stands_by)),
                format!("--rpl-semi-sync-{role}-enabled=ON"),
            ])
            .args([
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--log-bin=changes",
                "--log-slave-updates",
                "--binlog-format=ROW",
                "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
                "--innodb-flush-log-at-trx-commit=2",
                "--innodb-buffer-pool-size=256M",
                // If the other server is gone, it stops waiting for it after this time.
                "--rpl-semi-sync-master-timeout=2000",
            ]);
        server.process = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        let answers = || server.client("SELECT 1").status.success();
        assert!(eventually(answers), "{}", server.log());
        server
    }

    /// A server that accepts writes.
    pub fn primary() -> Self {
        let server = Self::new(false);
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
        let server = Self::new(true);
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
        use std::os::unix::fs::MetadataExt;
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = self.folder.path();
        let mut command = Command::new("env");
        command
            .arg(format!("PATH={path}:/usr/sbin"))
            .args([name, "--no-defaults"])
            .arg(format!("--datadir={}/data", folder.display()))
            // Servers that are created at the same time have temporary tables with the same names.
            .arg(format!("--tmpdir={}", folder.display()));
        let is_given = folder.metadata().unwrap().uid() != 0;
        if is_given && Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
            command.arg("--user=mysql");
        }
        command
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
    pub fn promote(&self) {
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
    }

    fn client(&self, sql: &str) -> Output {
        let socket = format!("--socket={}/socket", self.folder.path().display());
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--user=root", &socket, "-N", "-e", sql]);
        client.output().unwrap()
    }

    fn sql(&self, sql: &str) -> String {
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
