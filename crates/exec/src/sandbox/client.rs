//! The side of this program: starts the keeper of a run, and commands on its connections.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use batchwright::Error;
use parking_lot::Mutex;

use super::SandboxStatus;
use super::keeper;
use super::programs::refused;
use super::wire::{self, Greeting, Policy, Reply};

/// A program that is only a keeper. It is much smaller than `batchwright`, so the system copies it in a fraction of the
/// time.
const SMALL: &str = "batchwright-sandbox";
/// The running program.
const OWN: &str = "/proc/self/exe";
/// A keeper answers within this time, unless the program is another one.
const ANSWER: Duration = Duration::from_secs(60);
/// A keeper ends within this time, unless a process hangs in the kernel.
const END: Duration = Duration::from_secs(15);

/// The keeper of a run. When this is dropped, all processes of the run are killed.
#[derive(Debug)]
pub struct Keeper {
    /// `None` after the end was requested.
    socket: Mutex<Option<UnixStream>>,
    process: Child,
    pub status: SandboxStatus,
}

impl Keeper {
    /// Starts one; `None` if this program has no helper.
    pub fn start(named: Option<&Path>, policy: &Policy) -> Result<Option<Self>, Error> {
        let mut failed = Ok(None);
        for program in helpers(named) {
            let cannot = |why: &dyn std::fmt::Display| {
                refused(format!(
                    "{} cannot start commands: {why}",
                    program.display()
                ))
            };
            match greet(&program, policy) {
                Ok((keeper, None)) => return Ok(Some(keeper)),
                Ok((_, Some(why))) => return Err(cannot(&why)),
                // Another one may be a keeper.
                Err(why) => failed = Err(cannot(&why)),
            }
        }
        failed
    }

    /// Starts a command with these outputs. An error means that the keeper has ended, or that this program may open no
    /// more files.
    pub fn run(&self, words: Vec<OsString>, outputs: [BorrowedFd<'_>; 2]) -> io::Result<Launched> {
        let (ours, theirs) = UnixStream::pair()?;
        let [stdout, stderr] = outputs;
        let socket = self.socket.lock();
        let socket = socket.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        wire::send(socket, &words, &[theirs.as_fd(), stdout, stderr])?;
        Ok(Launched(ours))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        *self.socket.get_mut() = None;
        let until = Instant::now() + END;
        while let Ok(None) = self.process.try_wait() {
            if Instant::now() > until {
                log::warn!("a process of a command was killed but does not end; it is left behind");
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A command that a keeper runs. When this is dropped, its group is killed.
#[derive(Debug)]
pub struct Launched(UnixStream);

impl Launched {
    /// Becomes readable when the command has ended.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// What became of the command; an error if the keeper has ended.
    pub fn reply(&self) -> io::Result<Reply> {
        let reply = wire::receive(&self.0)?;
        reply
            .map(|(reply, _)| reply)
            .ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends a signal to the group of the command.
    pub fn signal(&self, signal: i32) {
        let _ = wire::send(&self.0, &signal, &[]);
    }
}

/// The named program, or the small one in the folder of the running program and then the running program itself.
fn helpers(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let own = std::env::current_exe().ok();
    let small = own.map(|own| own.with_file_name(SMALL));
    let own = keeper::can_help().then(|| PathBuf::from(OWN));
    small
        .filter(|small| small.exists())
        .into_iter()
        .chain(own)
        .collect()
}

/// Starts a program as a keeper, and waits for its answer. Returns also why it refuses the policy.
fn greet(program: &Path, policy: &Policy) -> io::Result<(Keeper, Option<String>)> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .arg0(SMALL)
        .args([keeper::ROLE, keeper::VERSION])
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal must not reach it, because it has to see the end of this program.
        .process_group(0);
    if policy.confine {
        command.env_clear();
    }
    let mut keeper = Keeper {
        socket: Mutex::default(),
        process: command.spawn()?,
        status: SandboxStatus {
            helper: (program != Path::new(OWN)).then(|| program.to_owned()),
            ..SandboxStatus::default()
        },
    };
    // Closes the end of the keeper here.
    drop(command);
    match answer(&socket, policy, &mut keeper.status) {
        Ok(refused) => {
            *keeper.socket.get_mut() = Some(socket);
            Ok((keeper, refused))
        }
        Err(_) => {
            let _ = keeper.process.kill();
            Err(io::Error::other(
                "it is no batchwright of this version, or does not call batchwright_exec::confine_main",
            ))
        }
    }
}

/// The answer of a keeper: the reason if it refuses the policy.
fn answer(
    socket: &UnixStream,
    policy: &Policy,
    status: &mut SandboxStatus,
) -> io::Result<Option<String>> {
    socket.set_read_timeout(Some(ANSWER))?;
    wire::send(socket, policy, &[])?;
    loop {
        let answer = wire::receive(socket)?;
        match answer.ok_or(io::ErrorKind::UnexpectedEof)?.0 {
            Greeting::Ready { missing } => {
                status.missing = missing;
                socket.set_read_timeout(None)?;
                return Ok(None);
            }
            Greeting::NoNamespace(why) => status.no_namespace = Some(why),
            Greeting::Failed(why) => return Ok(Some(why)),
        }
    }
}
