//! The watchdog of a run: this program once more, outside of every sandbox, which measures what commands use
//! together, kills those that use too much, and kills all of them when batchwright is gone, however it ended.
//!
//! A process of its own, because a thread does not outlive `kill -9`. It knows a command by the process that
//! was announced to it, and what belongs to it by descent and process group. What has left both is known by
//! a variable of its environment, or because it was seen before.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use rustix::process::{Pid, Signal, getppid, kill_process_group};

use super::limits::Limits;
use super::processes::{self, Identity, Process, variable};

/// What the watchdog is started with as its first argument.
pub const WATCH: &str = "__watch";

/// The variable by which the processes of a command are known: the run, a dot, the number of the command.
pub const COMMAND: &str = "BATCHWRIGHT_COMMAND";

const EVERY: Duration = Duration::from_millis(100);

/// How often it looks for what is left at the end, and how long it waits in between.
pub const LAST_LOOKS: u32 = 400;
const LAST_WAIT: Duration = Duration::from_millis(5);

/// What it is told on its standard input, before commands are announced there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    pub run: String,
    /// The process whose commands are watched.
    pub batchwright: i32,
    /// The folder of the run, which goes when all is over.
    pub folder: PathBuf,
    pub memory: Option<u64>,
    pub processes: Option<u64>,
}

impl Orders {
    pub fn new(run: &str, folder: &Path, limits: &Limits) -> Self {
        Self {
            run: run.to_owned(),
            batchwright: std::process::id().cast_signed(),
            folder: folder.to_owned(),
            memory: limits.memory,
            processes: limits.processes,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;

        let limit = |limit: Option<u64>| limit.map_or_else(String::new, |limit| limit.to_string());
        let head = format!(
            "{}\n{}\n{}\n{}\n",
            self.run,
            self.batchwright,
            limit(self.memory),
            limit(self.processes)
        );
        let folder = self.folder.as_os_str().as_bytes();
        // Its length, since a path may hold line ends.
        let mut orders = format!("{head}{}\n", folder.len()).into_bytes();
        orders.extend(folder);
        orders
    }

    fn read(input: &mut impl BufRead) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;

        let mut line = || {
            let mut line = String::new();
            input.read_line(&mut line).ok()?;
            line.strip_suffix('\n').map(str::to_owned)
        };
        let limit = |text: String| match text.as_str() {
            "" => Some(None),
            number => number.parse().ok().map(Some),
        };
        let (run, batchwright) = (line()?, line()?.parse().ok()?);
        let (memory, processes) = (limit(line()?)?, limit(line()?)?);
        let mut folder = vec![0; line()?.parse().ok()?];
        input.read_exact(&mut folder).ok()?;
        Some(Self {
            run,
            batchwright,
            folder: std::ffi::OsString::from_vec(folder).into(),
            memory,
            processes,
        })
    }
}

/// Watches until its standard input ends, then kills what is left, and ends.
pub fn main() -> ! {
    let mut input = io::stdin().lock();
    let Some(orders) = Orders::read(&mut input) else {
        eprintln!("another version of batchwright started this one to watch commands");
        std::process::exit(super::helper::FAILED);
    };
    drop(input);
    // Says that commands can be announced now.
    println!("ready");
    let (tell, announced) = unbounded();
    // Its end, and with it that of the channel, is the end of batchwright or of the run.
    let reading = thread::Builder::new().spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            let command = line
                .split_once(' ')
                .and_then(|(number, pid)| Some((number.parse().ok()?, pid.parse().ok()?)));
            if let Some(command) = command
                && tell.send(command).is_err()
            {
                return;
            }
        }
    });
    let mut watchdog = Watchdog {
        orders,
        commands: HashMap::new(),
    };
    if reading.is_ok() {
        watchdog.watch(&announced);
    }
    watchdog.end();
    std::process::exit(0);
}

struct Watchdog {
    orders: Orders,
    commands: HashMap<u64, Command>,
}

struct Command {
    /// Its first process.
    leader: i32,
    members: HashSet<Identity>,
    /// Looks since the leader was last seen.
    without_leader: u32,
    killed: bool,
}

impl Command {
    fn new(leader: i32) -> Self {
        Self {
            leader,
            members: HashSet::new(),
            without_leader: 0,
            killed: false,
        }
    }
}

impl Watchdog {
    /// Looks at the announced commands again and again, until no more can be announced.
    fn watch(&mut self, announced: &Receiver<(u64, i32)>) {
        let mut next = Instant::now() + EVERY;
        loop {
            match announced.recv_deadline(next) {
                Ok((number, leader)) => {
                    self.commands.insert(number, Command::new(leader));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= next {
                self.look();
                next = Instant::now() + EVERY;
            }
        }
    }

    /// Counts what each command uses, and kills those that use too much or that ended without their children.
    fn look(&mut self) {
        if self.commands.is_empty() {
            return;
        }
        let processes = self.assign(processes::descendants(self.orders.batchwright));
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
            if let Some(reason) = excess(&self.orders, &alive.copied().collect::<Vec<_>>()) {
                doomed.push((*number, Some(reason)));
            } else if command.without_leader > 2 && !command.members.is_empty() {
                doomed.push((*number, None));
            }
        }
        for (number, reason) in doomed {
            self.kill(number, reason);
        }
        self.commands
            .retain(|_, command| command.without_leader <= 2 || !command.members.is_empty());
    }

    /// Which command each process belongs to. Parents come before their children.
    fn assign(&self, processes: Vec<Process>) -> Vec<(u64, Process)> {
        let mut of_pid: HashMap<i32, u64> = HashMap::new();
        let mut groups: HashMap<i32, u64> = HashMap::new();
        let mut seen: HashMap<Identity, u64> = HashMap::new();
        for (number, command) in &self.commands {
            groups.insert(command.leader, *number);
            seen.extend(command.members.iter().map(|member| (*member, *number)));
        }
        let mut assigned = Vec::new();
        for process in processes {
            let known = groups
                .get(&process.group)
                .or_else(|| of_pid.get(&process.parent))
                .or_else(|| seen.get(&process.identity))
                .copied();
            let number = known.or_else(|| {
                (process.parent == self.orders.batchwright)
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

    /// Kills all of a command. Its reason is told first, so that it is known when the end is seen.
    fn kill(&mut self, number: u64, reason: Option<String>) {
        let Some(command) = self.commands.get_mut(&number) else {
            return;
        };
        if let Some(reason) = reason
            && !std::mem::replace(&mut command.killed, true)
        {
            let mut output = io::stdout().lock();
            let _ = writeln!(output, "{number} {reason}").and_then(|()| output.flush());
        }
        // What it starts meanwhile, too: a process that has a signal to die of starts no other.
        for _ in 0..LAST_LOOKS {
            if let Some(leader) = Pid::from_raw(self.commands[&number].leader) {
                let _ = kill_process_group(leader, Signal::KILL);
            }
            let processes = self.assign(processes::descendants(self.orders.batchwright));
            let left: Vec<_> = processes
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

    /// Where what is left may be found: below batchwright, which inherits it, or anywhere once that has ended.
    fn candidates(&self) -> Vec<Process> {
        let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
        if parent == Some(self.orders.batchwright) {
            return processes::descendants(self.orders.batchwright);
        }
        let all = processes::all().into_iter().flatten();
        all.filter_map(Process::of).collect()
    }

    /// Kills all that is left of all commands, and removes the folder of the run.
    fn end(&mut self) {
        let mut known: HashSet<Identity> = HashSet::new();
        let mut groups: HashSet<i32> = HashSet::new();
        for command in self.commands.values() {
            known.extend(&command.members);
            groups.insert(command.leader);
        }
        let ours = format!("{}.", self.orders.run).into_bytes();
        let mut quiet = 0;
        for _ in 0..LAST_LOOKS {
            let mut parents: HashSet<i32> = known.iter().map(|process| process.pid).collect();
            let mut left = 0;
            for process in self.candidates() {
                let pid = process.identity.pid;
                let belongs = known.contains(&process.identity)
                    || groups.contains(&process.group)
                    || parents.contains(&process.parent)
                    || variable(pid, COMMAND).is_some_and(|value| value.starts_with(&ours));
                if belongs && !process.ended {
                    known.insert(process.identity);
                    parents.insert(pid);
                    process.identity.kill();
                    left += 1;
                }
            }
            // Once more: what was being started was not to be seen.
            quiet = if left == 0 { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
            if left > 0 {
                thread::sleep(LAST_WAIT);
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.orders.folder) {
            log::warn!("cannot remove {}: {error}", self.orders.folder.display());
        }
    }
}

/// What these processes of one command use too much of.
fn excess(orders: &Orders, processes: &[Process]) -> Option<String> {
    let threads: u64 = processes.iter().map(|process| process.threads).sum();
    if let Some(limit) = orders.processes.filter(|limit| threads > *limit) {
        return Some(format!(
            "it had more than {limit} processes and threads; --max-procs N allows more"
        ));
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
    uses_more(processes, limit).then(|| {
        format!("it used more than {limit} bytes of memory; --max-memory SIZE allows more")
    })
}

/// How often memory is counted anew because processes ended meanwhile.
const MOST_COUNTS: usize = 5;

/// Whether these processes together use more memory than so many bytes, pages that they share counted once, which
/// takes longer than to add up what each one has.
fn uses_more(processes: &[Process], limit: u64) -> bool {
    let page = rustix::param::page_size() as u64;
    let again = |process: &Process| {
        let now = Process::of(process.identity.pid);
        now.filter(|now| now.identity == process.identity && !now.ended && now.resident > 0)
    };
    let memory = |process: &Process| {
        let exact = processes::proportional_memory(process.identity.pid);
        // One that has begun to end has none left.
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
        // What one that ends has shared falls to the others, which count it a second time.
        let before = counted.len();
        counted.retain(|process| again(process).is_some());
        if counted.len() == before {
            break;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_understands_its_orders() {
        let limits = Limits::default();
        let orders = Orders::new("r", Path::new("/tmp/a\nb"), &limits);
        let encoded = orders.encode();
        assert_eq!(Orders::read(&mut encoded.as_slice()), Some(orders));
        assert_eq!(Orders::read(&mut "r\n1\n\n".as_bytes()), None);
    }
}
