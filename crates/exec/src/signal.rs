//! Signals to the processes of a command.

use rustix::process::{Pid, Signal, getpgid, kill_process, kill_process_group};

/// Signals a group, and its first process if it has left the group. That one must not be reaped yet, so that the number is
/// valid.
pub(super) fn signal_group(leader: Pid, signal: Signal) {
    let _ = kill_process_group(leader, signal);
    if getpgid(Some(leader)) != Ok(leader) {
        let _ = kill_process(leader, signal);
    }
}
