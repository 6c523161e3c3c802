//! The side of this program: starts the keeper of a run, and commands on its connections.

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeWriter};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use batchwright::Error;
use parking_lot::Mutex;
use rustix::process::{getpid, set_child_subreaper};

use super::SandboxStatus;
use super::keeper::{self, end_descendants};
use super::launch::children;
use super::programs::refused;
use super::remove::Temporary;
use super::wire::{self, Greeting, Policy};

/// A program that is only a keeper. It is much smaller than `batchwright`, so the system copies it in a fraction of the
/// time.
const SMALL: &str = "batchwright-sandbox";
/// The running program.
const OWN: &str = "/proc/self/exe";
/// A keeper answers within this time, unless the program is another one.
const ANSWER: Duration = Duration::from_secs(60);
/// A keeper ends within this time, unless a process hangs in the kernel.
const END: Duration = Duration::from_secs(15);

/// The beginning of the message about a keeper that something has killed.
pub const LOST: &str = "the process that keeps the commands of the run together was ended by another program or by a command";

/// The keeper of a run. When this is dropped, all processes of the run are killed.
#[derive(Debug)]
pub struct Keeper {
    socket: Mutex<UnixStream>,
    process: Child,
    /// The folder for temporary files, which the keeper removes unless something kills it.
    temporary: Option<Temporary>,
    /// Its processes are in a namespace, which ends with it.
    is_namespace: bool,
    /// This process adopts its processes when it ends.
    adopts: bool,
    /// What is known of its commands after something has killed it.
    lost: OnceLock<&'static str>,
    pub status: SandboxStatus,
}

impl Keeper {
    /// Starts one; `None` if this program has no helper.
    pub fn start(
        named: Option<&Path>,
        policy: &Policy,
        adopts: bool,
    ) -> Result<Option<Self>, Error> {
        let mut failed = Ok(None);
        // What was there before is not ours to end.
        let adopts =
            adopts && children(getpid()).is_empty() && set_child_subreaper(Some(getpid())).is_ok();
        for program in helpers(named) {
            let named = program.display();
            let cannot = |why: String| refused(format!("{named} cannot start commands: {why}"));
            match greet(&program, policy) {
                Ok((mut keeper, None)) => {
                    keeper.adopts = adopts;
                    return Ok(Some(keeper));
                }
                Ok((_, Some(why))) => return Err(cannot(why)),
                // Another one may be a keeper.
                Err(why) => failed = Err(cannot(why.to_string())),
            }
        }
        failed
    }

    /// Starts a command with these outputs. Its connection receives its [`Reply`](wire::Reply), takes signals for its
    /// group, and kills the group when it is closed. An error means that the keeper has ended, or that this program may
    /// open no more files.
    pub fn run(
        &self,
        command: (&OsStr, &[OsString]),
        outputs: &[PipeWriter; 2],
    ) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        let files = [theirs.as_fd(), outputs[0].as_fd(), outputs[1].as_fd()];
        wire::send(&self.socket.lock(), &command, &files)?;
        Ok(ours)
    }

    /// What its end, which something else has caused, means for its commands. Ends those that this process has adopted.
    pub fn lost(&self) -> &'static str {
        self.lost.get_or_init(|| {
            if self.is_namespace {
                "so the kernel has killed all commands"
            } else if self.adopts && end_descendants() {
                "so all of them were killed, with what they had started"
            } else {
                "and what it kept may go on: look for it, and end it"
            }
        })
    }

    /// How it ended; `None` if it does not in this time.
    fn end_within(&mut self, longest: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + longest;
        loop {
            match self.process.try_wait() {
                Ok(None) if Instant::now() < until => {}
                // Its end was noticed together with those of its commands.
                Err(_) => return Some(ExitStatus::default()),
                ended => return ended.ok().flatten(),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Its answer to the policy: the reason if it refuses.
    fn answer(&mut self, policy: &Policy) -> io::Result<Option<String>> {
        let socket = self.socket.get_mut();
        socket.set_read_timeout(Some(ANSWER))?;
        wire::send(socket, policy, &[])?;
        loop {
            match wire::receive(socket)?.0 {
                Greeting::Ready { missing, temporary } => {
                    self.status.missing = missing;
                    self.temporary = temporary.map(|folder| Temporary(folder.into()));
                    self.is_namespace = policy.confine && self.status.no_namespace.is_none();
                    return Ok(None);
                }
                Greeting::NoNamespace(why) => self.status.no_namespace = Some(why),
                Greeting::Failed(why) => return Ok(Some(why)),
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.socket.get_mut().shutdown(Shutdown::Both);
        let mut status = self.end_within(END);
        if status.is_none() {
            // A command has stopped it, or it waits for what does not end.
            let _ = self.process.kill();
            status = self.end_within(END);
        }
        if status.is_none() {
            log::warn!("a process of a command was killed but does not end; it is left behind");
        }
        // Something killed it when no command ran.
        if self.lost.get().is_none() && status.is_some_and(|status| status.signal().is_some()) {
            log::warn!("{LOST}, {}", self.lost());
        }
    }
}

/// The named program, or the small one in the folder of the running program and then the running program itself.
fn helpers(named: Option<&Path>) -> Vec<PathBuf> {
    if let Some(named) = named {
        return vec![named.to_owned()];
    }
    let small = std::env::current_exe().map(|own| own.with_file_name(SMALL));
    let small = small.into_iter().filter(|small| small.exists());
    let own = keeper::can_help().then(|| PathBuf::from(OWN));
    small.chain(own).collect()
}

/// Starts a program as a keeper, and waits for its answer. Returns also why it refuses the policy.
fn greet(program: &Path, policy: &Policy) -> io::Result<(Keeper, Option<String>)> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command
        .arg0(SMALL)
        .arg(keeper::ROLE)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C at the terminal must not reach it, because it has to see the end of this program.
        .process_group(0);
    if policy.confine {
        command.env_clear();
    }
    let mut keeper = Keeper {
        socket: Mutex::new(socket),
        process: command.spawn()?,
        temporary: None,
        is_namespace: false,
        adopts: false,
        lost: OnceLock::new(),
        status: SandboxStatus {
            helper: (program != Path::new(OWN)).then(|| program.to_owned()),
            ..SandboxStatus::default()
        },
    };
    // Closes the end of the keeper here.
    drop(command);
    let refused = keeper.answer(policy).map_err(|_| {
        let _ = keeper.process.kill();
        io::Error::other(
            "it is no batchwright of this version, or does not call batchwright_exec::confine_main",
        )
    });
    Ok((keeper, refused?))
}
