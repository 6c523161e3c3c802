//! The side of this program: starts the keeper of a run, and commands on its connections.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use batchwright::Error;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::SandboxStatus;
use super::keeper;
use super::programs::refused;
use super::wire::{self, Greeting, Order, Policy, Reply};

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
    socket: Option<UnixStream>,
    process: Child,
    idle: Mutex<Vec<UnixStream>>,
    pub status: SandboxStatus,
    folder: Option<PathBuf>,
}

impl Keeper {
    /// Starts one; `None` if this program has no helper. If it cannot have the namespace of the policy, it does without.
    pub fn start(named: Option<&Path>, mut policy: Policy) -> Result<Option<Self>, Error> {
        let mut failed = Ok(None);
        for program in helpers(named) {
            let cannot = |why: &dyn std::fmt::Display| {
                refused(format!(
                    "{} cannot start commands: {why}",
                    program.display()
                ))
            };
            let mut no_namespace = None;
            let mut greeted = greet(&program, &policy);
            if let Ok((_, _, Greeting::NoNamespace(why))) = &greeted {
                no_namespace = Some(why.clone());
                policy.namespace = false;
                greeted = greet(&program, &policy);
            }
            match greeted {
                Ok((process, socket, Greeting::Ready { missing })) => {
                    return Ok(Some(Self {
                        socket: Some(socket),
                        process,
                        idle: Mutex::default(),
                        status: SandboxStatus {
                            missing,
                            no_namespace,
                            helper: (program != Path::new(OWN)).then_some(program),
                        },
                        folder: policy.temporary.map(Into::into),
                    }));
                }
                Ok((.., Greeting::Failed(why) | Greeting::NoNamespace(why))) => {
                    return Err(cannot(&why));
                }
                // Another one may be a keeper.
                Err(why) => failed = Err(cannot(&why)),
            }
        }
        failed
    }

    /// Starts a command with these outputs. An error means that the keeper has ended, or that this program may open no
    /// more files.
    pub fn run(&self, words: Vec<OsString>, outputs: [BorrowedFd<'_>; 2]) -> io::Result<Launched> {
        let idle = self.idle.lock().pop();
        let socket = match idle {
            Some(socket) => socket,
            None => {
                let (ours, theirs) = UnixStream::pair()?;
                let main = self.socket.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
                // Short messages of several threads are sent one after the other.
                wire::send(main, &(), &[theirs.as_fd()])?;
                ours
            }
        };
        wire::send(&socket, &Order::Run(words), &outputs)?;
        Ok(Launched { socket })
    }

    /// Keeps the connection of a command that has ended for the next one.
    pub fn keep(&self, launched: Launched) {
        self.idle.lock().push(launched.socket);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.socket = None;
        self.idle.get_mut().clear();
        let pidfd = pidfd_open(Pid::from_child(&self.process), PidfdFlags::empty());
        let timeout = Timespec::try_from(END).ok();
        let ended = pidfd.and_then(|pidfd| {
            rustix::io::retry_on_intr(|| {
                poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref())
            })
        });
        if ended != Ok(0) {
            let _ = self.process.wait();
        } else {
            log::warn!("a process of a command was killed but does not end; it is left behind");
        }
        if let Some(folder) = self.folder.as_ref().filter(|folder| folder.exists())
            && let Err(why) = std::fs::remove_dir_all(folder)
        {
            log::warn!("cannot remove {}: {why}", folder.display());
        }
    }
}

/// A command that a keeper runs.
#[derive(Debug)]
pub struct Launched {
    socket: UnixStream,
}

impl Launched {
    /// Becomes readable when the command has ended.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next message about the command; an error if the keeper has ended.
    pub fn reply(&self) -> io::Result<Reply> {
        let reply = wire::receive(&self.socket)?;
        reply
            .map(|(reply, _)| reply)
            .ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// Sends a signal to the group of the command.
    pub fn signal(&self, signal: i32) {
        let _ = wire::send(&self.socket, &Order::Signal(signal), &[]);
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

/// Starts a program as a keeper, and waits for its answer.
fn greet(program: &Path, policy: &Policy) -> io::Result<(Child, UnixStream, Greeting)> {
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
    if policy.environment.is_some() {
        command.env_clear();
    }
    let mut process = command.spawn()?;
    // Closes the end of the keeper here.
    drop(command);
    socket.set_read_timeout(Some(ANSWER))?;
    let greeted = wire::send(&socket, policy, &[]).and_then(|()| wire::receive(&socket));
    let greeting = match greeted {
        Ok(Some((greeting, _))) => greeting,
        _ => {
            let _ = process.kill();
            let _ = process.wait();
            return Err(io::Error::other(
                "it is no batchwright of this version, or does not call batchwright_exec::confine_main",
            ));
        }
    };
    socket.set_read_timeout(None)?;
    if !matches!(greeting, Greeting::Ready { .. }) {
        process.wait()?;
    }
    Ok((process, socket, greeting))
}
