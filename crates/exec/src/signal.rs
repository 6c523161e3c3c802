//! Signals to the processes of a command.

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Signals a group, or its first process if there is no such group: it has just been started, or has left the group. That
/// one must not be reaped yet, so that the number is valid.
pub(super) fn signal_group(leader: Pid, signal: Signal) {
    let group = kill_process_group(leader, signal);
    if group.is_err() || signal == Signal::KILL {
        let _ = kill_process(leader, signal);
    }
}
