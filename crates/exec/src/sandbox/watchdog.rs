//! The watchdog of a run: a second instance of this program, outside of every sandbox. It measures the resources of
//! each command, kills commands that use too much, and kills all of them when batchwright ends for any reason.
//!
//! It is a separate process, because a thread does not survive `kill -9`. It identifies a command by the process
//! that was announced, and its other processes by cgroup, descent, process group and session. A process that has left all
//! of these is identified by a variable in its environment, or because it was seen before. All other processes belong
//! to no running command, and are killed.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, getppid, kill_process_group};

use super::cgroup;
use super::encoding::decode;
use super::orders::{News, Orders};
use super::policy::VARIABLE;
use super::processes::{self, Identity, Process, end_descendants, variable};
use super::remove;

/// The first argument of the watchdog.
pub const WATCH: &str = "__watch";

/// The variable that identifies the processes of a command: the run, a dot, the number of the command.
pub const COMMAND: &str = "BATCHWRIGHT_COMMAND";

const EVERY: Duration = Duration::from_millis(100);

/// Number of checks for remaining processes at the end, and the wait between them.
pub const LAST_LOOKS: u32 = 400;
const LAST_WAIT: Duration = Duration::from_millis(5);

/// Watches until its standard input ends, then kills what is left, and exits.
pub fn main() -> ! {
    let orders = std::env::var_os(VARIABLE);
    let Some(orders) = orders.and_then(|orders| decode::<Orders>(orders.as_encoded_bytes())) else {
        eprintln!("another version of batchwright started this one to watch commands");
        std::process::exit(super::helper::FAILED);
    };
    // Each check reads the news that have arrived, and does not wait for more.
    let _ = fcntl_setfl(io::stdin(), OFlags::NONBLOCK);
    // Reports that commands can be announced now; nothing else is printed before this line.
    println!("ready");
    let mut watchdog = Watchdog {
        orders,
        commands: HashMap::new(),
        starting: HashSet::new(),
        strays: HashMap::new(),
        over: false,
        unread: Vec::new(),
    };
    watchdog.watch();
    watchdog.end();
    std::process::exit(0);
}

struct Watchdog {
    orders: Orders,
    commands: HashMap<u64, Command>,
    /// Commands that are being started.
    starting: HashSet<u64>,
    /// Children of batchwright that belong to no known command, each with the commands whose first process it may be.
    strays: HashMap<Identity, HashSet<u64>>,
    /// Batchwright has announced the end of the run.
    over: bool,
    /// An incomplete line of news.
    unread: Vec<u8>,
}

struct Command {
    /// Its first process.
    leader: i32,
    /// The first process is a launcher, which starts several commands one after the other.
    serves: bool,
    members: HashSet<Identity>,
    /// Number of checks since the leader was last seen.
    without_leader: u32,
    killed: bool,
}

impl Command {
    fn new(leader: i32) -> Self {
        Self {
            leader,
            serves: false,
            members: HashSet::new(),
            without_leader: 0,
            killed: false,
        }
    }
}

impl Command {
    fn launcher(&self) -> Option<i32> {
        self.serves.then_some(self.leader)
    }
}

impl Watchdog {
    /// Checks the announced commands repeatedly. The end of its input means that batchwright or the run has ended.
    fn watch(&mut self) {
        while !has_ended(EVERY) {
            self.catch_up();
            self.look();
        }
        self.catch_up();
    }

    /// Reads news of commands. Returns false if no more have arrived.
    fn hear(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(0) => return false,
            Ok(read) => self.unread.extend(&buffer[..read]),
            Err(error) => return error == rustix::io::Errno::INTR,
        }
        let end = self.unread.iter().rposition(|&byte| byte == b'\n');
        let lines: Vec<u8> = self.unread.drain(..end.map_or(0, |end| end + 1)).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            match News::read(line) {
                Some(News::Starting(number)) => {
                    self.starting.insert(number);
                }
                Some(News::Started(number, leader)) => {
                    self.starting.remove(&number);
                    let leader = leader.cast_signed();
                    self.commands.insert(number, Command::new(leader));
                }
                Some(News::Serving(number, launcher)) => {
                    self.starting.remove(&number);
                    let command = Command {
                        serves: true,
                        ..Command::new(launcher.cast_signed())
                    };
                    self.commands.insert(number, command);
                }
                Some(News::NotStarted(number)) => {
                    self.starting.remove(&number);
                }
                Some(News::NotAlone) => self.orders.owns_children = false,
                Some(News::Over) => self.over = true,
                None => {}
            }
        }
        true
    }

    /// Reads all news that have arrived.
    fn catch_up(&mut self) {
        while self.hear() {}
    }

    /// Measures the resources of each command, and kills commands that use too much or have ended without their
    /// children.
    fn look(&mut self) {
        if self.commands.is_empty() && !self.orders.owns_children {
            return;
        }
        self.end_crowds();
        let descendants = processes::descendants(self.orders.batchwright);
        // A command is announced before it starts, so an unknown process belongs to no command.
        self.catch_up();
        let processes = self.assign(&descendants);
        self.end_strays(&descendants, &processes);
        let mut by_command: HashMap<u64, Vec<Process>> = HashMap::new();
        for (number, process) in processes {
            by_command.entry(number).or_default().push(process);
        }
        let mut doomed = Vec::new();
        for (number, command) in &mut self.commands {
            let of_it = by_command.remove(number).unwrap_or_default();
            let alive = of_it.iter().filter(|process| !process.ended);
            let led = alive
                .clone()
                .any(|process| process.identity.pid == command.leader);
            command.without_leader = if led { 0 } else { command.without_leader + 1 };
            command.members = alive.clone().map(|process| process.identity).collect();
            // A process that has ended occupies a number until its parent reaps it, which batchwright and launchers do.
            let reaps =
                |pid: i32| pid == self.orders.batchwright || command.launcher() == Some(pid);
            let counted = |process: &&Process| {
                (!process.ended || !reaps(process.parent))
                    && command.launcher() != Some(process.identity.pid)
            };
            let counted: Vec<_> = of_it.iter().filter(counted).copied().collect();
            if let Some(reason) = excess(&self.orders, &counted) {
                doomed.push((*number, Some(reason), counted));
            } else if command.without_leader > 2 && !command.members.is_empty() {
                doomed.push((*number, None, Vec::new()));
            }
        }
        for (number, reason, counted) in doomed {
            self.kill(number, reason, &counted);
        }
        self.commands
            .retain(|_, command| command.without_leader <= 2 || !command.members.is_empty());
    }

    /// Kills commands whose cgroups contain too many processes. A fork bomb grows too fast for a check of each process.
    fn end_crowds(&mut self) {
        let Some((cgroups, limit)) = self.orders.cgroups.as_ref().zip(self.orders.processes) else {
            return;
        };
        let crowded = |(number, command): (&u64, &Command)| {
            let mut members = cgroup::members(&cgroups.join(number.to_string()));
            members.retain(|&pid| command.launcher() != Some(pid));
            (members.len() as u64 > limit).then_some((*number, members))
        };
        let crowded: Vec<_> = self.commands.iter().filter_map(crowded).collect();
        for (number, members) in crowded {
            let members: Vec<_> = members.into_iter().filter_map(Process::of).collect();
            self.kill(number, Some(has_too_many(limit)), &members);
        }
    }

    /// Kills processes that a finished command left behind, or that hide from the running one.
    fn end_strays(&mut self, descendants: &[Process], assigned: &[(u64, Process)]) {
        if !self.orders.owns_children {
            return;
        }
        let assigned = assigned.iter();
        let known: HashSet<i32> = assigned.map(|(_, process)| process.identity.pid).collect();
        let own = std::process::id().cast_signed();
        let mut before = std::mem::take(&mut self.strays);
        for process in descendants {
            let identity = process.identity;
            if process.parent != self.orders.batchwright
                || process.ended
                || identity.pid == own
                || known.contains(&identity.pid)
            {
                continue;
            }
            let starting = before.remove(&identity);
            let mut starting = starting.unwrap_or_else(|| self.starting.clone());
            starting.retain(|number| self.starting.contains(number));
            if starting.is_empty() {
                processes::kill_tree(identity)
            } else {
                drop(self.strays.insert(identity, starting))
            }
        }
    }

    /// All processes that may belong to commands.
    fn processes(&self) -> Vec<(u64, Process)> {
        self.assign(&processes::descendants(self.orders.batchwright))
    }

    /// The command of each process: the processes in the cgroups of commands, and these descendants. Parents come
    /// before their children.
    fn assign(&self, descendants: &[Process]) -> Vec<(u64, Process)> {
        let mut of_pid: HashMap<i32, u64> = HashMap::new();
        let found: HashSet<i32> = descendants
            .iter()
            .map(|process| process.identity.pid)
            .collect();
        let mut processes = Vec::new();
        for (number, command) in &self.commands {
            of_pid.insert(command.leader, *number);
            let Some(cgroups) = &self.orders.cgroups else {
                continue;
            };
            for pid in cgroup::members(&cgroups.join(number.to_string())) {
                of_pid.insert(pid, *number);
                if !found.contains(&pid) {
                    processes.extend(Process::of(pid));
                }
            }
        }
        processes.extend(descendants);
        let mut leaders: HashMap<i32, u64> = HashMap::new();
        let mut seen: HashMap<Identity, u64> = HashMap::new();
        for (number, command) in &self.commands {
            leaders.insert(command.leader, *number);
            seen.extend(command.members.iter().map(|member| (*member, *number)));
        }
        let mut assigned = Vec::new();
        for process in processes {
            let known = led(&process)
                .find_map(|leader| leaders.get(&leader))
                .or_else(|| of_pid.get(&process.identity.pid))
                .or_else(|| of_pid.get(&process.parent))
                .or_else(|| seen.get(&process.identity))
                .copied();
            let number = known.or_else(|| {
                (process.parent == self.orders.batchwright && !process.ended)
                    .then(|| self.by_variable(process.identity.pid))?
            });
            if let Some(number) = number {
                of_pid.insert(process.identity.pid, number);
                assigned.push((number, process));
            }
        }
        assigned
    }

    fn by_variable(&self, pid: i32) -> Option<u64> {
        let value = String::from_utf8(variable(pid, COMMAND)?).ok()?;
        let number = value
            .strip_prefix(&self.orders.run)?
            .strip_prefix('.')?
            .parse()
            .ok()?;
        self.commands.contains_key(&number).then_some(number)
    }

    /// Kills all processes of a command. The reason is reported first, so that it is known when the end is noticed.
    /// `counted`: the processes that are the reason.
    fn kill(&mut self, number: u64, reason: Option<String>, counted: &[Process]) {
        let Some(command) = self.commands.get_mut(&number) else {
            return;
        };
        let launcher = command.launcher().filter(|_| reason.is_some());
        // A stopped launcher does not start another command, which would be killed in place of this one.
        if launcher.is_some_and(|pid| !processes::stop_unless_ended(pid, counted)) {
            return;
        }
        if let Some(reason) = reason
            && !std::mem::replace(&mut command.killed, true)
        {
            let mut output = io::stdout().lock();
            let _ = writeln!(output, "{number} {reason}").and_then(|()| output.flush());
        }
        if let Some(launcher) = launcher.filter(|_| self.orders.cgroups.is_none()) {
            // It adopts what its command leaves behind, so it ends last.
            end_descendants(launcher);
        }
        // Includes processes that it starts meanwhile; a process with a pending fatal signal starts no others.
        for _ in 0..LAST_LOOKS {
            if let Some(cgroups) = &self.orders.cgroups {
                cgroup::kill(&cgroups.join(number.to_string()));
            }
            if let Some(leader) = Pid::from_raw(self.commands[&number].leader) {
                let _ = kill_process_group(leader, Signal::KILL);
            }
            let left: Vec<_> = self
                .processes()
                .into_iter()
                .filter(|(of, process)| *of == number && !process.ended)
                .map(|(_, process)| process.identity)
                .collect();
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|process| process.kill());
            if let Some(command) = self.commands.get_mut(&number) {
                command.members.extend(left);
            }
        }
    }

    /// Batchwright has ended, or is ending: its files are closed before its children get another parent. In between,
    /// the commands of a launcher that is killed become children of init.
    fn is_alone(&self) -> bool {
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
        !self.over || parent != Some(self.orders.batchwright)
    }

    /// The processes among which remaining ones are searched: below batchwright, which adopts them, or all processes
    /// once batchwright has ended.
    fn candidates(&self) -> Vec<Process> {
        if !self.is_alone() {
            return processes::descendants(self.orders.batchwright);
        }
        let all = processes::all().into_iter().flatten();
        all.filter_map(Process::of).collect()
    }

    /// Kills all remaining processes of all commands, and removes the folder of the run.
    fn end(&mut self) {
        let mut known: HashSet<Identity> = HashSet::new();
        let mut leaders: HashSet<i32> = HashSet::new();
        for command in self.commands.values() {
            known.extend(&command.members);
            leaders.insert(command.leader);
            let launcher = command.launcher();
            if let Some(launcher) = launcher.filter(|_| self.orders.cgroups.is_none()) {
                end_descendants(launcher);
            }
        }
        let ours = format!("{}.", self.orders.run).into_bytes();
        let mut quiet = 0;
        for _ in 0..LAST_LOOKS {
            if let Some(cgroups) = &self.orders.cgroups {
                cgroup::kill(cgroups);
            }
            let mut parents: HashSet<i32> = known.iter().map(|process| process.pid).collect();
            let mut left = 0;
            for process in self.candidates() {
                let pid = process.identity.pid;
                let belongs = known.contains(&process.identity)
                    || led(&process).any(|leader| leaders.contains(&leader))
                    || parents.contains(&process.parent)
                    || variable(pid, COMMAND).is_some_and(|value| value.starts_with(&ours));
                if belongs && !process.ended {
                    known.insert(process.identity);
                    parents.insert(pid);
                    process.identity.kill();
                    left += 1;
                }
            }
            // Check once more, because a process that is being started is not visible.
            quiet = if left == 0 { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
            if left > 0 || self.is_alone() {
                thread::sleep(LAST_WAIT);
            }
        }
        if let Some(cgroups) = &self.orders.cgroups
            && let Err(error) = cgroup::end(cgroups)
        {
            log::warn!("{error}");
        }
        if let Err(why) = remove::tree(&self.orders.folder) {
            let mut output = io::stdout().lock();
            // Number 0 is not a command: the message concerns the run.
            let _ = writeln!(output, "0 {why}").and_then(|()| output.flush());
        }
    }
}

/// Waits for the end of its input, at most this long. News do not wake it, because there are several for each
/// command.
fn has_ended(longest: Duration) -> bool {
    let until = Instant::now() + longest;
    let stdin = io::stdin();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut input = [PollFd::new(&stdin, PollFlags::empty())];
        match poll(&mut input, Timespec::try_from(left).ok().as_ref()) {
            Ok(ended) => return ended > 0,
            Err(error) if error == rustix::io::Errno::INTR => {}
            Err(_) => return true,
        }
    }
}

/// The leaders that a process may have. The commands of a launcher have separate groups in its session.
fn led(process: &Process) -> impl Iterator<Item = i32> {
    [process.group, process.session].into_iter()
}

/// The limit that these processes of one command exceed.
fn excess(orders: &Orders, processes: &[Process]) -> Option<String> {
    let threads: u64 = processes.iter().map(|process| process.threads).sum();
    if let Some(limit) = orders.processes.filter(|limit| threads > *limit) {
        return Some(has_too_many(limit));
    }
    let limit = orders.memory?;
    let page = rustix::param::page_size() as u64;
    let resident: u64 = processes
        .iter()
        .map(|process| process.resident * page)
        .sum();
    if resident <= limit {
        return None;
    }
    uses_more(processes, limit).then(|| uses_too_much_memory(limit))
}

fn has_too_many(limit: u64) -> String {
    format!("it had more than {limit} processes and threads; --max-procs N allows more")
}

/// The reason for killing a command that used too much memory.
pub fn uses_too_much_memory(limit: u64) -> String {
    format!("it used more than {limit} bytes of memory; --max-memory SIZE allows more")
}

/// Maximum number of times that memory is counted again because processes ended meanwhile.
const MOST_COUNTS: usize = 5;

/// Whether these processes together use more than this number of bytes, with shared pages counted once. This takes
/// longer than adding up the memory of each process.
fn uses_more(processes: &[Process], limit: u64) -> bool {
    let page = rustix::param::page_size() as u64;
    let again = |process: &Process| {
        let now = Process::of(process.identity.pid);
        now.filter(|now| now.identity == process.identity && !now.ended && now.resident > 0)
    };
    let memory = |process: &Process| {
        let exact = processes::proportional_memory(process.identity.pid);
        // A process that is ending has no memory left.
        exact
            .or_else(|| Some(again(process)?.resident * page))
            .unwrap_or(0)
    };
    let mut counted = processes.to_vec();
    for _ in 0..MOST_COUNTS {
        let used: u64 = counted.iter().map(memory).sum();
        if used <= limit {
            return false;
        }
        // The shared memory of a process that ends is attributed to the others, which would count it a second time.
        let before = counted.len();
        counted.retain(|process| again(process).is_some());
        if counted.len() == before {
            break;
        }
    }
    true
}

#[cfg(test)]
#[path = "watchdog_tests.rs"]
mod tests;
