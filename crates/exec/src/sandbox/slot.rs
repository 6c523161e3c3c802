//! Launchers, each with the cgroup in which it starts commands one after the other. A launcher is used again if its
//! command left nothing behind. Otherwise its cgroup is killed, and another one takes its place.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal};

use super::cgroup;
use super::helper;
use super::helper_program::HelperProgram;
use super::place::{Held, Place};
use super::policy::Policy;
use super::processes::{Identity, Process, descendants, end_descendants};
use super::run::Run;
use super::watchdog::COMMAND;
use super::watched::Watched;
use super::wire::{self, Message, Order, Reply};
use crate::reap;

/// The launchers of a run.
#[derive(Debug)]
pub struct Slots {
    pub helper: HelperProgram,
    pub policy: Policy,
    /// The variables of launchers and their commands.
    pub environment: Vec<(OsString, OsString)>,
    pub run: Arc<Run>,
    /// Those that no command uses now.
    pub free: Mutex<Vec<Slot>>,
    /// The folders and files of commands, held open during the run.
    pub places: Mutex<Vec<Held>>,
}

impl Slots {
    /// Starts a command with these standard files: two outputs and perhaps an input.
    pub fn start(
        self: &Arc<Self>,
        order: &Order,
        files: &[BorrowedFd<'_>],
    ) -> io::Result<Launched> {
        self.run.is_watched()?;
        let free = self.free.lock().pop();
        // If it was killed meanwhile, it has not received the command.
        let given = free.filter(|slot| wire::send(&slot.socket, order, files).is_ok());
        let slot = match given {
            Some(slot) => slot,
            None => {
                let slot = self.open()?;
                wire::send(&slot.socket, order, files)?;
                slot
            }
        };
        Ok(Launched {
            slots: self.clone(),
            slot: Some(slot),
            reply: None,
        })
    }

    /// The folder as it was when the first command was to work there.
    pub fn place_of(&self, folder: &Path) -> Place {
        let mut places = self.places.lock();
        if let Some(known) = places.iter().find(|held| held.place.path == folder) {
            return known.place.clone();
        }
        match Held::new(folder) {
            Ok(held) => {
                let place = held.place.clone();
                places.push(held);
                place
            }
            // The launcher will report the reason.
            Err(_) => Place {
                path: folder.to_owned(),
                ..Place::default()
            },
        }
    }

    fn open(&self) -> io::Result<Slot> {
        let number = self.run.next();
        let policy = self.policy.of_launcher(number);
        let mut watched = Watched::new(number, Some(self.run.clone()), policy.cgroup.clone());
        let (socket, theirs) = UnixStream::pair()?;
        let mut command = self.helper.command();
        command
            .arg(helper::SERVE)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(COMMAND, format!("{}.{number}", self.run.id))
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It can be killed as a group from the beginning.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let launcher = watched.spawn_launcher(&mut command)?;
        // Closes the end of the launcher here.
        drop(command);
        let slot = Slot {
            socket,
            launcher,
            killed: Mutex::default(),
            watched,
        };
        wire::send(&slot.socket, &policy, &[])?;
        Ok(slot)
    }
}

/// A launcher and all its commands.
#[derive(Debug)]
pub struct Slot {
    socket: UnixStream,
    launcher: Child,
    /// Killed processes that become children of this program when the launcher has ended.
    killed: Mutex<Vec<Identity>>,
    /// Dropped last: it removes the cgroup.
    watched: Watched,
}

impl Slot {
    /// Kills all processes of its command, and with a cgroup also the launcher.
    fn kill(&self) {
        let launcher = self.launcher.id().cast_signed();
        let below = descendants(launcher).into_iter();
        self.killed
            .lock()
            .extend(below.map(|process| process.identity));
        match &self.watched.cgroup {
            Some(cgroup) => cgroup::kill(cgroup),
            None => end_descendants(launcher),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.kill();
        let _ = self.launcher.kill();
        let _ = reap::child(&mut self.launcher);
        let (own, until) = (
            std::process::id().cast_signed(),
            Instant::now() + reap::AFTER_KILL,
        );
        for killed in self.killed.get_mut().drain(..) {
            let now = Process::of(killed.pid);
            if now.is_some_and(|now| now.identity == killed && now.parent == own)
                && let Some(pid) = Pid::from_raw(killed.pid)
            {
                reap::stray(pid, until);
            }
        }
    }
}

/// A command that a launcher has started.
#[derive(Debug)]
pub struct Launched {
    slots: Arc<Slots>,
    slot: Option<Slot>,
    reply: Option<Reply>,
}

impl Launched {
    /// Becomes readable when the command has ended.
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        self.slot.as_ref().map(|slot| slot.socket.as_fd())
    }

    /// To ask for the reason of its end; the processes belong to the launcher.
    pub fn watched(&self) -> Watched {
        let watched = self.slot.as_ref().map(|slot| &slot.watched);
        watched.map_or_else(Watched::default, |of_slot| {
            Watched::new(of_slot.number, of_slot.run.clone(), of_slot.cgroup.clone())
        })
    }

    pub fn has_reply(&self) -> bool {
        self.reply.is_some()
    }

    /// What became of the command; waits for its end. If the launcher was killed, the command is killed too.
    pub fn reply(&mut self) -> &Reply {
        let slot = self.slot.as_ref();
        self.reply.get_or_insert_with(|| {
            let message = slot.and_then(|slot| wire::receive(&slot.socket).ok()?);
            let reply = message.and_then(Message::value).map(|(reply, _)| reply);
            if let (None, Some(slot)) = (&reply, slot) {
                slot.kill();
            }
            reply.unwrap_or_else(Reply::killed)
        })
    }

    /// Sends a signal to the processes of the command. After its end, kills all that it left behind.
    pub fn signal(&self, signal: Signal) {
        let Some(slot) = &self.slot else { return };
        match &self.reply {
            None => drop(wire::send_signal(&slot.socket, signal.as_raw())),
            Some(reply) if !reply.is_clean() => slot.kill(),
            Some(_) => {}
        }
    }

    /// Kills everything, because the launcher does not report the end.
    pub fn abandon(&mut self) {
        if let Some(slot) = &self.slot {
            self.reply = Some(Reply::killed());
            slot.kill();
        }
    }
}

impl Reply {
    fn killed() -> Self {
        Self::Ended {
            status: Some(Signal::KILL.as_raw()),
            pid: 0,
            clean: false,
        }
    }

    fn is_clean(&self) -> bool {
        matches!(self, Self::Ended { clean: true, .. })
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if self.reply.as_ref().is_some_and(Reply::is_clean) {
            self.slots.free.lock().extend(self.slot.take());
        }
    }
}
