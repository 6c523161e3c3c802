//! What the queue commands share: where the queue is, opening it, the process that an argument names, and who collects
//! its results; and text about batches.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use batchwright::batch::{BatchInfo, clients_by_account};
use batchwright::queue::{Durability, ProcessInfo, ProcessState, SqliteOptions};
use batchwright::unstable::{Clock, SystemClock, quoted};
use batchwright::{Context, Error, JobQueue, LlmConfig, ProcessId, Settings};
use serde_json::Value;

use super::args::shared::{DataArgs, QueueFileArg, StoreArgs};
use super::display;
use super::exit::{About, Exit, Refusal, could_not_run};
use super::format::{count, number_of, span};
use super::sanitize::one_line;
use super::settings::{NAMED_FOLDER, data_dir, in_folder};
use super::stderr::is_json;
use super::stdout;

/// Selects the file in the data folder.
const NONE: &str = "none";

/// Completes the arguments of a command that uses the queue: a flag, the environment or the settings of the data folder
/// name a server. Otherwise the queue is the file in the data folder.
pub fn find_store(store: &mut StoreArgs) -> Result<(), Refusal> {
    let by_flag = |given: &Option<String>, name: &str| {
        let variable = env::var(name).ok();
        given.clone().filter(|_| variable != *given)
    };
    let flag = by_flag(&store.store, "BATCHWRIGHT_STORE");
    let redis = by_flag(&store.redis, "BATCHWRIGHT_REDIS");
    if store.store.is_none() {
        store.store = stored()?;
    }
    match store.store.as_deref().map(str::trim) {
        Some("") => {
            return Err(Refusal::usage(
                "--store has no address; for the queue in the data folder: --store none",
            ));
        }
        Some(NONE) => store.store = None,
        _ => {}
    }
    if store.store.is_none() {
        if redis.is_some() {
            return Err(Refusal::usage(
                "--redis is for a queue on a database server only; name that server with --store ADDRESS",
            ));
        }
        store.redis = None;
    }
    for (name, given) in [("--store", flag), ("--redis", redis)] {
        let given = given.map(|given| if given == NONE { given } else { shown(&given) });
        let words = given.map(|given| format!(" {name} {}", quoted(&given)));
        store.flags.extend(words);
    }
    Ok(())
}

/// The address in the settings of the data folder.
fn stored() -> Result<Option<String>, Refusal> {
    let Some(folder) = data_dir() else {
        return Ok(None);
    };
    let config = in_folder(&folder);
    let settings = Settings::new().store(&config).map_err(could_not_run)?;
    settings.queue_store().map_err(|error| {
        let message = format!("{} in {}", error.message(), config.path().display());
        Refusal::usage(message).hint("to delete it: batchwright config unset queue.store")
    })
}

impl DataArgs {
    /// Opens the queue, which is created if it does not exist.
    pub fn open(&self, ctx: &Context) -> Result<JobQueue, Refusal> {
        let file = self.file.queue.as_deref().map(existing_file).transpose()?;
        let options = SqliteOptions::default();
        let folder = folder()?;
        let queue = open(&self.store, file, &folder, options, ctx).map_err(failed)?;
        // Who only looks changes nothing.
        if !self.store.as_it_is {
            check_server(&queue, file, &folder)?;
        }
        Ok(queue)
    }

    /// The database, which may not exist yet.
    pub fn database(&self) -> Result<PathBuf, Refusal> {
        match &self.file.queue {
            Some(file) => existing_file(file).map(Path::to_owned),
            None => Ok(folder()?.join(FILE)),
        }
    }

    /// The queue as that which collects the results of this process, if no server has its batch any more.
    pub fn of_lost_batch(
        &self,
        queue: &JobQueue,
        process: &ProcessState,
    ) -> Result<Option<JobQueue>, Refusal> {
        let Some(batch) = &process.info.collector else {
            return Ok(None);
        };
        let (file, folder) = (self.file.queue.as_deref(), folder()?);
        check_server(queue, file, &folder)?;
        let path = server_db(file, &folder);
        let lost = || -> Result<bool, Error> {
            let place = queue.server_place(&path);
            // Another server may have it, or one that has not begun with this version.
            let servers = queue.servers()?;
            let is_only = !servers.is_empty() && servers.iter().all(|one| one.place == place);
            Ok(is_only && !batchwright_server::has_batch(&path, batch)?)
        };
        let is_lost = lost().map_err(failed)?;
        Ok(is_lost.then(|| queue.described(ProcessInfo::new().collector(batch))))
    }

    /// The address of the queue's server, if the queue is on one.
    fn server(&self) -> Option<&str> {
        let address = self.store.store.as_deref();
        address.filter(|_| self.file.queue.is_none())
    }

    /// The place of the queue, for messages.
    pub fn place(&self) -> String {
        match self.server() {
            Some(address) => shown(address),
            None => self.database().unwrap_or_default().display().to_string(),
        }
    }

    /// Opens the queue if there is one.
    pub fn existing(&self) -> Result<Option<JobQueue>, Refusal> {
        if self.server().is_some() {
            return self.open(&Context::new()).map(Some);
        }
        let path = self.database()?;
        if path.exists() {
            self.open(&Context::new()).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Opens the queue and finds the named process: by its id, or by the beginning or the end of its id. Without a
    /// name, it is the only process of a run's store.
    pub fn process(&self, named: Option<&str>) -> Result<(JobQueue, ProcessState), Refusal> {
        let list = how_to_list(&self.file, &self.store);
        let Some(named) = named else {
            return self.only_process(list);
        };
        let queue = self.existing()?;
        let process = match (&queue, named.parse::<ProcessId>()) {
            (None, _) => None,
            (Some(queue), Ok(id)) => queue.process(id).map_err(failed)?,
            (Some(queue), Err(error)) => part_of(queue, named, &error, &list)?,
        };
        queue.zip(process).ok_or_else(|| {
            let why = format!("no process {named} in {}", self.place());
            Refusal::usage(why).about(About::Queue).hint(list)
        })
    }

    fn only_process(&self, list: String) -> Result<(JobQueue, ProcessState), Refusal> {
        let queue = self.existing()?;
        let processes = queue.as_ref().map(|queue| queue.open_processes());
        let mut processes = processes.transpose().map_err(failed)?.unwrap_or_default();
        let why = match (queue, processes.pop(), processes.is_empty()) {
            // Only the file of a run says which one is meant.
            (Some(queue), Some(only), true) if self.file.queue.is_some() => {
                return Ok((queue, only));
            }
            (_, Some(_), _) => "no process is named".to_owned(),
            _ => format!("there is no process in {}", self.place()),
        };
        Err(Refusal::usage(why).about(About::Queue).hint(list))
    }

    /// A command on this queue, ready to be pasted into a shell.
    pub fn command(&self, words: &str) -> String {
        command(words, &self.file, &self.store)
    }
}

/// The flag that names the data folder in another command, with a space before it.
pub fn folder_flag() -> String {
    let flag = NAMED_FOLDER
        .get()
        .map(|folder| format!(" --data-dir {}", quoted(folder)));
    flag.unwrap_or_default()
}

/// A command on this queue, ready to be pasted into a shell.
pub fn command(words: &str, file: &QueueFileArg, store: &StoreArgs) -> String {
    let folder = folder_flag();
    match &file.queue {
        Some(file) => format!("batchwright {words}{folder} --queue {}", quoted(file)),
        None => format!("batchwright {words}{folder}{}", store.flags),
    }
}

/// What to do if a process is not found.
pub fn how_to_list(file: &QueueFileArg, store: &StoreArgs) -> String {
    format!("to list the processes: {}", command("status", file, store))
}

/// Reports a change of a process, as text and as JSON.
pub fn report((line, facts): (String, Value)) -> Exit {
    display::note(line);
    if is_json() {
        stdout::json(&facts, Exit::Success)
    } else {
        Exit::Success
    }
}

/// The file of a queue, which must exist.
pub fn existing_file(file: &Path) -> Result<&Path, Refusal> {
    if file.is_file() {
        return Ok(file);
    }
    let why = format!(
        "--queue {}: the file does not exist; the queue of a run is deleted when all its results are in the output",
        file.display()
    );
    Err(Refusal::usage(why).about(About::Queue))
}

/// An address without its password.
pub fn shown(address: &str) -> String {
    let (scheme, rest) = address.split_once("://").unwrap_or(("mysql", address));
    match rest.rsplit_once('@') {
        Some((user, place)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{place}")
        }
        None => format!("{scheme}://{rest}"),
    }
}

/// What is said of a queue that nothing is taken from.
pub const PAUSED: &str = "the queue is paused, so no job starts; the dashboard resumes it, or POST /api/v1/resume of a server on \
                          this queue";

/// The file of a queue in the data folder.
const FILE: &str = "llm_jobs.db";

/// The data folder.
pub fn folder() -> Result<PathBuf, Refusal> {
    let none = "no data folder: set --data-dir or BATCHWRIGHT_HOME";
    data_dir().ok_or_else(|| Refusal::could_not_run(none))
}

/// The `server.db` of a queue: beside its file, otherwise in the data folder.
fn server_db(file: Option<&Path>, folder: &Path) -> PathBuf {
    let beside = file.and_then(Path::parent);
    beside.unwrap_or(folder).join("server.db")
}

/// Refuses a queue, or the `server.db` with it, that is a backup from another moment: it would buy again what was paid for.
pub fn check_server(queue: &JobQueue, file: Option<&Path>, folder: &Path) -> Result<(), Refusal> {
    queue.check_server(&server_db(file, folder)).map_err(failed)
}

/// Opens the queue in this file, otherwise on a server, otherwise in the data folder, where it is created if it does not
/// exist. A cancelled context ends the wait for programs of an earlier version.
pub fn open(
    store: &StoreArgs,
    file: Option<&Path>,
    folder: &Path,
    options: SqliteOptions,
    ctx: &Context,
) -> Result<JobQueue, Error> {
    let options = options.as_it_is(store.as_it_is).context(ctx);
    match (file, &store.store) {
        (Some(file), _) => JobQueue::open_with(file, options.existing()),
        (None, Some(address)) => on_server(store, address, folder, ctx),
        (None, None) => JobQueue::open_with(folder.join(FILE), options),
    }
}

/// Opens the queue on a server, and connects it with Redis if configured. Data that is too long for a database is in the
/// data folder.
#[cfg(feature = "redis")]
fn on_server(
    args: &StoreArgs,
    address: &str,
    folder: &Path,
    ctx: &Context,
) -> Result<JobQueue, Error> {
    use batchwright::queue::{MysqlOptions, RedisHub, RedisOptions, Store};
    let options = MysqlOptions::new(address).folder(folder).context(ctx);
    let mut store = Store::on_server(options.as_it_is(args.as_it_is))?;
    let redis = match &args.redis {
        Some(address) => Some(address.clone()),
        None => Settings::new().store(&in_folder(folder))?.queue_redis()?,
    };
    if let Some(address) = redis {
        store = store.with_redis(&RedisHub::new(RedisOptions::new(&address))?);
    }
    Ok(JobQueue::on(std::sync::Arc::new(store)))
}

/// Reports that this build does not support servers.
#[cfg(not(feature = "redis"))]
fn on_server(_: &StoreArgs, _: &str, _: &Path, _: &Context) -> Result<JobQueue, Error> {
    let why = "--store or queue.store: this program was built without the feature redis; build it again with: \
               cargo install --locked --path crates/cli --features redis";
    Err(Error::new(batchwright::ErrorKind::Invalid, why))
}

/// How safe each write is: with `--fsync` it also survives a power failure.
pub fn durability(fsync: bool) -> Durability {
    if fsync {
        Durability::Full
    } else {
        Durability::Normal
    }
}

/// The refusal for an error of the queue.
pub fn failed(error: Error) -> Refusal {
    Refusal::could_not_run(error.message()).about(About::Queue)
}

/// The processes that these arguments name. A process that is named by its complete id need not exist yet.
pub fn all_of(queue: &JobQueue, named: &[String], list: &str) -> Result<Vec<ProcessId>, Refusal> {
    let one = |named: &String| match named.parse() {
        Ok(id) => Ok(id),
        Err(error) => match part_of(queue, named, &error, list)? {
            Some(process) => Ok(process.process_id),
            None => {
                let refusal = Refusal::usage(format!("no process {named}"));
                Err(refusal.about(About::Queue).hint(list))
            }
        },
    };
    named.iter().map(one).collect()
}

/// Minimum number of characters of an id that identify it.
const LEAST: usize = 4;

/// The process whose id begins or ends with this text.
fn part_of(
    queue: &JobQueue,
    text: &str,
    bad: &Error,
    list: &str,
) -> Result<Option<ProcessState>, Refusal> {
    let part = text.trim().trim_start_matches('…').to_ascii_lowercase();
    if !part.chars().all(|c| c.is_ascii_hexdigit() || c == '-') {
        return Err(Refusal::usage(bad.message()).hint(list));
    }
    if part.len() < LEAST {
        return Err(Refusal::usage(format!(
            "{part:?} is too short for a process id: give at least its first or last {LEAST} characters"
        ))
        .hint(list));
    }
    let mut fitting = queue.open_processes().map_err(failed)?;
    fitting.retain(|process| {
        let id = process.process_id.to_string();
        id.starts_with(&part) || id.ends_with(&part)
    });
    if fitting.len() < 2 {
        return Ok(fitting.pop());
    }
    let ids = fitting
        .iter()
        .map(|process| format!("\n  {}", process.process_id));
    Err(Refusal::usage(format!(
        "{} processes have an id that begins or ends with {part}; give more characters of one of them:{}",
        fitting.len(),
        ids.collect::<String>()
    )))
}

/// The command that collects the results of such a process, or a description of it; `None` for a process that belongs
/// to no run.
pub fn run_command(info: &ProcessInfo) -> Option<String> {
    let output = info.output.as_ref()?;
    let unknown = || format!("the program that made it, with the output {output}");
    Some(info.command.clone().unwrap_or_else(unknown))
}

/// A line saying that it belongs to a run, and the command that collects its results.
pub fn run_line(process: &ProcessState) -> Option<String> {
    let info = &process.info;
    let (id, output) = (process.process_id, info.output.as_ref()?);
    let input = info.name.as_ref().or(info.input.as_ref());
    let input = input.map_or_else(String::new, |input| format!(" of {input}"));
    let command = run_command(info)?;
    Some(format!(
        "process {id} belongs to a run{input}: its results go to {output}, by:\n  {command}"
    ))
}

/// A line saying that a batch of the server collects the results of the process.
pub fn collected_by_server(process: &ProcessState) -> Option<String> {
    let (id, collector) = (process.process_id, process.info.collector.as_ref()?);
    Some(format!(
        "process {id} belongs to {collector} of batchwright serve, which collects its results; nothing was deleted"
    ))
}

/// A line saying who collects the results of the process, if users do not.
pub fn collected_elsewhere(process: &ProcessState) -> Option<String> {
    let of_job = process.info.parent.map(|parent| {
        format!(
            "job {} of process {} waits for these results and collects them",
            parent.job_id, parent.process_id
        )
    });
    of_job
        .or_else(|| collected_by_server(process))
        .or_else(|| run_line(process))
}

/// A batch on one line. The address is that of `--base-url`.
pub fn batch_line(batch: &BatchInfo, address: Option<&str>) -> String {
    let mut line = batch_state(batch);
    // The age is known in whole seconds only.
    line.push_str(&match batch.age_seconds {
        seconds @ 0..60 => format!(", {seconds} s old"),
        seconds => format!(", {} old", span(Duration::from_secs(seconds))),
    });
    if let Some(problem) = &batch.problem {
        line.push_str(&format!("; {problem}"));
    }
    if let Some(waiting) = missing_results(batch) {
        line.push_str(&format!("; {waiting}; batchwright cancel abandons them"));
    }
    if lacks_its_key(batch, address) {
        line.push_str("; its key is not set here: ");
        line.push_str(NEEDS_ITS_KEY);
    }
    one_line(&line)
}

/// For a batch whose billed results are missing: since when, and how long the provider keeps them.
pub fn missing_results(batch: &BatchInfo) -> Option<String> {
    let what = batch.uncollected.as_ref()?;
    let (now, provider) = (SystemClock.wall(), &batch.provider);
    let since = span(now.since(what.since));
    let kept = match what.kept_until.map(|until| until.since(now)) {
        None => format!("{provider} does not report how long it keeps them"),
        Some(Duration::ZERO) => format!("{provider} may have removed them by now"),
        Some(left) => format!("{provider} keeps them for about {} more", span(left)),
    };
    let requests = count(what.requests);
    Some(format!(
        "{requests} billed results are missing for {since}; {kept}"
    ))
}

/// The provider of batches, if its address is that of `--base-url`, or in the variable of that flag.
pub fn own_of_batches(provider: &str, address: Option<&str>) -> Option<LlmConfig> {
    let url = address.map(str::to_owned);
    let url = url.or_else(|| std::env::var("BATCHWRIGHT_BASE_URL").ok());
    let url = url.filter(|url| !url.is_empty())?;
    Some(LlmConfig::new(provider).base_url(url))
}

/// True if no worker owns it and no API key for its address is set here.
pub fn lacks_its_key(batch: &BatchInfo, address: Option<&str>) -> bool {
    let clients = clients_by_account(own_of_batches(&batch.provider, address));
    !batch.attended && !batch.provider.is_empty() && clients(&batch.account()).is_none()
}

/// What batches wait for whose API key is not set, or does not show them.
pub const NEEDS_ITS_KEY: &str = "set the key that created them, or one of the same account, and the provider's base URL \
     if it was not the default";

/// The state, without parts that change only with time.
pub fn batch_state(batch: &BatchInfo) -> String {
    let name = batch.remote_id.as_deref().unwrap_or(&batch.label);
    let state = match &*batch.state {
        _ if batch.unsent => "not handed over",
        _ if batch.cancel_asked => "being cancelled",
        state => state,
    };
    let mut line = format!("batch {name} at {}: {state}", batch.provider);
    line.push_str(&match batch.completed {
        Some(done) => format!(", {} of {} done", count(done), count(batch.total)),
        None => format!(", {}", number_of(batch.total, "request|requests")),
    });
    if let Some(failed) = batch.failed.filter(|n| *n > 0) {
        line.push_str(&format!(", {} failed", count(failed)));
    }
    if !batch.attended {
        line.push_str(", no active worker");
    }
    line
}
