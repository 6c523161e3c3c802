//! A folder for a test, and programs that run in it with a separate environment. The tests of the program use this
//! file too.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use batchwright::Usd;
use batchwright_simulate::{SimConfig, Simulator};
use serde_json::Value;
use tempfile::TempDir;

#[path = "cases.rs"]
mod cases;
#[path = "has.rs"]
mod has;
pub use cases::cases;
pub use has::Has;

/// Far longer than any step of these tests takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// No server listens on port 9 (discard), so tests never find a server of this machine.
pub const NOBODY: &str = "http://127.0.0.1:9/v1";

/// The data folder in a desk, so that no program started by a test uses the settings of this user.
pub const HOME: &str = "home";

/// A temporary folder in which the program runs.
pub struct Desk(TempDir);

impl Desk {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A folder whose `in.jsonl` has `n` prompts, see [`Desk::prompts`].
    pub fn with(n: usize) -> Self {
        let desk = Self::new();
        desk.prompts("in.jsonl", n);
        desk
    }

    /// Writes `in.jsonl`.
    pub fn input(&self, text: impl AsRef<[u8]>) {
        self.write("in.jsonl", text);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Writes `{"id":"i-0","prompt":"prompt 0"}` and so on.
    pub fn prompts(&self, name: &str, n: usize) {
        self.write(name, prompt_lines(n));
    }

    /// The results in a file; each must be a complete line.
    pub fn results(&self, name: &str) -> Vec<Value> {
        results(&self.read(name))
    }

    /// The ids in a results file, sorted; every line is a success.
    pub fn ids(&self, name: &str) -> Vec<String> {
        let mut ids = self.order(name);
        ids.sort();
        ids
    }

    /// The ids in a results file, in the order of the file; every line is a success.
    pub fn order(&self, name: &str) -> Vec<String> {
        let results = self.results(name);
        assert!(results.iter().all(|line| line["success"] == true));
        results.iter().map(id).collect()
    }

    /// A program with only the environment variables that it needs.
    pub fn other<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.0.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path())
            .env("BATCHWRIGHT_HOME", self.path(HOME))
            .env("LOCAL_LLM_BASE_URL", NOBODY)
            // A missing feature of this kernel must not fail the test.
            .env("BATCHWRIGHT_EXEC_SANDBOX", "best-effort")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

pub fn simulator(config: SimConfig) -> Simulator {
    Simulator::start(config).unwrap()
}

/// A simulator that answers immediately and never fails.
pub fn good() -> Simulator {
    simulator(SimConfig::default())
}

pub fn prompt_line(i: usize) -> String {
    format!("{{\"id\":\"i-{i}\",\"prompt\":\"prompt {i}\"}}\n")
}

pub fn prompt_lines(n: usize) -> String {
    (0..n).map(prompt_line).collect()
}

/// The ids of `n` prompts, in the order of [`Desk::ids`].
pub fn all_ids(n: usize) -> Vec<String> {
    let mut ids = ids_in_order(n);
    ids.sort();
    ids
}

pub fn ids_in_order(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("i-{i}")).collect()
}

pub fn results(text: &str) -> Vec<Value> {
    assert!(text.is_empty() || text.ends_with('\n'), "torn: {text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

pub fn id(line: &Value) -> String {
    line["id"].as_str().unwrap().to_owned()
}

/// An amount of a result line or a summary.
pub fn usd(value: &Value) -> Usd {
    serde_json::from_value(value.clone()).unwrap()
}

/// The result of a program that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end.
pub trait RunToEnd {
    fn ended(&mut self) -> Ended;
}

impl RunToEnd for Command {
    fn ended(&mut self) -> Ended {
        Running::start(self).wait()
    }
}

impl Ended {
    /// Asserts the exit code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        let found = self.status;
        assert_eq!(found.code(), Some(code), "{found}: {}", self.stderr);
        self
    }

    /// Asserts that standard error contains these words.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        self.tells(words);
        self
    }

    /// Asserts the exit code, and that standard error contains these words.
    #[track_caller]
    pub fn ends(self, code: i32, words: &str) -> Self {
        self.expect(code).says(words)
    }

    /// Asserts that standard error does not contain these words.
    #[track_caller]
    pub fn hides(&self, words: &str) {
        assert!(!self.stderr.contains(words), "{words:?}: {}", self.stderr);
    }

    /// Asserts that standard error contains these words, like [`says`](Self::says).
    #[track_caller]
    pub fn tells(&self, words: &str) {
        assert!(self.stderr.contains(words), "no {words:?}: {}", self.stderr);
    }

    /// Asserts that standard output contains these words.
    #[track_caller]
    pub fn shows(&self, words: &str) {
        assert!(self.stdout.contains(words), "no {words:?}: {}", self.stdout);
    }

    /// Asserts that the only error line contains these words.
    #[track_caller]
    pub fn errs(&self, words: &str) {
        assert!(
            self.error().contains(words),
            "no {words:?}: {}",
            self.stderr
        );
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// The only error line.
    #[track_caller]
    pub fn error(&self) -> &str {
        let mut lines = self.stderr.lines().filter(|line| line.contains("error:"));
        let line = lines.next().unwrap_or_else(|| panic!("{}", self.stderr));
        assert_eq!(lines.next(), None, "more than one: {}", self.stderr);
        line
    }
}

/// The program while it runs; it is killed when this is dropped.
pub struct Running {
    pub child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    reading: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, into) = (child.stderr.take().unwrap(), stderr.clone());
        let reading = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut buffer) {
                into.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self {
            child,
            stderr,
            reading: Some(reading),
        }
    }

    /// Its standard error up to now.
    pub fn said(&self) -> String {
        String::from_utf8(self.stderr.lock().unwrap().clone()).unwrap()
    }

    /// Waits until standard error contains these words.
    #[track_caller]
    pub fn hears(&self, words: &str) {
        let heard = eventually(|| self.said().contains(words));
        assert!(heard, "never said {words:?}: {}", self.said());
    }

    /// Sends a signal by its name, for example `INT`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let (flag, pid) = (format!("-{name}"), self.child.id().to_string());
        let kill = Command::new("kill").args([&flag, &pid]).status().unwrap();
        assert!(kill.success());
    }

    /// Writes to its standard input, which stays open.
    pub fn feed(&mut self, text: &str) {
        let pipe = self.child.stdin.as_mut().unwrap();
        pipe.write_all(text.as_bytes()).unwrap();
        pipe.flush().unwrap();
    }

    /// Waits until it ends.
    #[track_caller]
    pub fn wait(mut self) -> Ended {
        let stdout = self.child.stdout.take().map(|mut pipe| {
            thread::spawn(move || {
                let mut text = String::new();
                pipe.read_to_string(&mut text).map(|_| text)
            })
        });
        let mut status = None;
        eventually(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let Some(status) = status else {
            panic!("it does not end; it said: {}", self.said());
        };
        let stdout = stdout.map_or_else(String::new, |thread| thread.join().unwrap().unwrap());
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        Ended {
            status,
            stdout,
            stderr: self.said(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks repeatedly until the condition is true; false if that takes too long.
pub fn eventually(mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(3));
    }
}

/// Runs `test` for all of these at once, because they mostly wait; a failure names them.
pub fn each<T: Sync + std::fmt::Debug>(all: &[T], test: impl Fn(&T) + Sync) {
    thread::scope(|scope| {
        let all: Vec<_> = all
            .iter()
            .map(|one| (one, scope.spawn(|| test(one))))
            .collect();
        let failed: Vec<_> = all
            .into_iter()
            .filter_map(|(one, thread)| thread.join().is_err().then_some(one))
            .collect();
        assert!(failed.is_empty(), "failed: {failed:?}");
    });
}

/// Number of complete lines in a file, which may not exist yet.
pub fn line_count(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |bytes| bytes.iter().filter(|b| **b == b'\n').count())
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// A folder of a desk that is a separate small disk; it is unmounted when this is dropped.
#[cfg(target_os = "linux")]
pub struct SmallDisk {
    pub desk: Desk,
    pub at: PathBuf,
}

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None` if this user may not mount disks.
    pub fn new(folder: &str, kilobytes: u64) -> Option<Self> {
        let desk = Desk::new();
        let at = desk.path(folder);
        std::fs::create_dir(&at).unwrap();
        let size = format!("size={kilobytes}k");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&at)
            .output();
        if !mount.is_ok_and(|output| output.status.success()) {
            println!("skipped: this user cannot mount a small disk");
            return None;
        }
        Some(Self { desk, at })
    }

    /// Fills the disk up to this free space.
    pub fn leave(&self, kilobytes: u64) {
        let mut filler = std::fs::File::create(self.at.join("filler")).unwrap();
        let mut size = 0;
        while filler.write_all(&[b'x'; 4096]).is_ok() {
            size += 4096;
        }
        filler.set_len(size - kilobytes * 1024).unwrap();
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.at.join("filler")).unwrap();
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.at.display());
        }
    }
}
