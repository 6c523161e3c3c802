//! The server as its host sees it.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io, thread};

use batchwright::config::{ConfigStore, SettingsWatch};
use batchwright::progress::Metrics;
use batchwright::queue::{COMPLETION_KIND, Durability, EMBEDDING_KIND, WorkerReport};
use batchwright::unstable::{make_private_folder, open_private};
use batchwright::{
    Error, ErrorKind, JobQueue, LlmManager, RunningWorker, Secret, Settings, Worker,
};
use batchwright_jobs::JobTypes;
use derive_setters::Setters;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::access::{Guard, Tokens};
use crate::app::App;
use crate::background::{Background, Wake};
use crate::events::Events;
use crate::http::{DEFAULT_CONNECTIONS, Limits, Listener};
use crate::observe::{Fresh, Observer, Overview};
use crate::openai::storage::Storage;
use crate::openai::waiting::Waiting;
use crate::records::Records;
use crate::settings::LiveSettings;
use crate::webhooks::{self, Receiver};
use crate::{openai, watcher};

/// A queue and its worker over HTTP: the API, the Batch endpoint and the dashboard on one port.
///
/// By default it listens on the loopback interface. Any other address requires a [token](Self::token).
// More than 15 fields: each is a setting with a setter of its own.
#[derive(derive_more::Debug, Setters)]
#[setters(generate = false, strip_option)]
#[debug("Server({address}, token: {token:?})")]
pub struct Server {
    queue: JobQueue,
    worker: Worker,
    /// Address and port to listen on. Port 0 takes a free one. Default: 127.0.0.1, port
    /// [`DEFAULT_PORT`](Self::DEFAULT_PORT).
    #[setters(generate)]
    address: SocketAddr,
    /// The token that all clients send as `Authorization: Bearer TOKEN`, for example as the API key of OpenAI's clients.
    /// Default: none, which is possible on the loopback interface only.
    #[setters(generate)]
    token: Option<Secret>,
    /// A file with tokens, which clients send like [the single one](Self::token). It has one line for each token, which
    /// [`new_token`](crate::new_token) makes, with its name, [role](crate::Role) and hash; or it has one token with the
    /// role `operate`. Only the server's user may have access to the file, which is read at the start. Default: none.
    #[setters(generate, into)]
    token_file: Option<PathBuf>,
    hosts: Vec<String>,
    /// A folder for `server.db` and uploaded files, which one server at a time uses. `/readyz` checks that it can be
    /// written. Default: the folder of the queue's database.
    #[setters(generate, into, rename = "data_dir")]
    folder: Option<PathBuf>,
    /// The manager that made the worker. It reports which providers exist and which strategy applies. Default: none, and
    /// the server does not report them.
    #[setters(generate)]
    manager: Option<LlmManager>,
    settings: Option<LiveSettings>,
    /// The types of jobs whose payloads are checked when a job is created. Default: the built-in ones, without files of
    /// this machine.
    #[setters(generate, rename = "job_types")]
    types: JobTypes,
    /// Receives the counts and times that `/metrics` reports. Default: new ones.
    #[setters(generate)]
    metrics: Metrics,
    limits: Limits,
    /// Maximum bytes on the disk of all uploaded files and their results, and of one body of JSON lines. Default: 10 GiB.
    #[setters(generate, rename = "max_upload_bytes")]
    upload_bytes: u64,
    webhook: Option<Receiver>,
    /// What a power failure may lose of the server's own records, such as batches of `/v1`. Use the durability of the
    /// queue. Default: [`Durability::Normal`].
    #[setters(generate)]
    durability: Durability,
    /// How long requests in progress may take when the server stops. Default: 30 s.
    #[setters(generate)]
    grace: Duration,
}

impl Server {
    /// The default port.
    pub const DEFAULT_PORT: u16 = 8787;
    /// The default number of connections at once.
    pub const DEFAULT_CONNECTIONS: usize = DEFAULT_CONNECTIONS;

    /// A server of this queue and its worker. The server receives the progress and the jobs of the worker, so it replaces
    /// the worker's [notifier](Worker::notifier) and [observer](Worker::observer).
    pub fn new(queue: JobQueue, worker: Worker) -> Self {
        Self {
            queue,
            worker,
            address: (Ipv4Addr::LOCALHOST, Self::DEFAULT_PORT).into(),
            token: None,
            token_file: None,
            hosts: Vec::new(),
            folder: None,
            manager: None,
            settings: None,
            types: JobTypes::new(),
            metrics: Metrics::new(),
            limits: Limits::default(),
            upload_bytes: 10 << 30,
            webhook: None,
            durability: Durability::default(),
            grace: Duration::from_secs(30),
        }
    }

    /// A host name that clients may use in addition to the server's address. May be called more than once. Default: none,
    /// and `localhost` on the loopback interface.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.hosts.push(host.into());
        self
    }

    /// An address that is told the end of each process and each batch of `/v1` that is created at this server, until it
    /// accepts the message, in up to 6 attempts within a day. The secret signs the messages according to Standard
    /// Webhooks: `whsec_` and the base64 of 24 to 64 random bytes. Default: none.
    ///
    /// # Errors
    /// If the address or the secret is invalid.
    pub fn webhook(mut self, url: &str, secret: &Secret) -> Result<Self, Error> {
        self.webhook = Some(Receiver::new(url, secret)?);
        Ok(self)
    }

    /// Settings that clients may read, and change in this store. The worker of a manager that
    /// [follows](batchwright::LlmManager::follow) the store applies them within 1 second. Default: none.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn settings(
        mut self,
        settings: Settings,
        store: Arc<dyn ConfigStore>,
    ) -> Result<Self, Error> {
        let watch = SettingsWatch::new(settings, Arc::clone(&store))?;
        self.settings = Some(LiveSettings::new(watch, store));
        Ok(self)
    }

    /// Maximum number of connections at once; half of them may wait for answers. Further ones are turned away. Each
    /// connection needs an open file, so the server raises the soft limit of open files to the hard one. Default:
    /// [`DEFAULT_CONNECTIONS`](Self::DEFAULT_CONNECTIONS).
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections.max(1);
        self
    }

    /// Starts the worker and begins to answer.
    ///
    /// # Errors
    /// When the address cannot be listened on; when it is not on the loopback interface and there is no token; when the
    /// folder cannot be used; when the worker cannot be started.
    pub fn start(mut self) -> Result<RunningServer, Error> {
        self.check_token()?;
        let tokens = Tokens::new(self.token.as_ref(), self.token_file.as_deref())?;
        let (lock, folder, records, storage) = self.open_records()?;
        raise_file_limit();
        let listener = listen(self.address)?;
        let address = listener.local_addr();
        let address = address.map_err(|error| failed("the address", &error))?;
        let events = Arc::new(Events::new());
        let waiting = Waiting::new(self.limits.connections);
        let observer = Arc::new(Observer {
            events: Arc::clone(&events),
            metrics: self.metrics,
            waiting: Arc::clone(&waiting),
            seen: Mutex::default(),
        });
        // Before the worker starts: it would buy answers that no client waits for.
        if let Err(error) = openai::settle_abandoned(&self.queue, &records, &waiting) {
            log::error!("requests of servers that have ended are settled later: {error}");
        }
        let kinds = kinds(&self.worker, self.manager.is_some());
        let worker = self
            .worker
            .handle(openai::LINE_KIND, openai::line_handler())
            .notifier(observer.clone())
            .observer(observer.clone())
            .start()?;
        let overview = Overview {
            queue: self.queue.clone(),
            observer: Arc::clone(&observer),
            limits: worker.limits(),
            manager: self.manager.map(Mutex::new),
            last: Fresh::default(),
        };
        let app = Arc::new(App {
            folder,
            queue_file: Some(PathBuf::from(self.queue.location())).filter(|file| file.is_file()),
            queue: self.queue,
            settings: self.settings,
            types: self.types,
            kinds,
            line_bytes: self.upload_bytes,
            events,
            observer,
            overview,
            records,
            storage,
            waiting,
            batches: Wake::new(),
            counted: Fresh::default(),
            guard: Guard::new(address, tokens, &self.hosts),
        });
        let start = || {
            Ok(RunningServer {
                batches: openai::start_progress(Arc::clone(&app))?,
                webhook: self
                    .webhook
                    .zip(app.records.webhook.clone())
                    .map(|(receiver, wake)| webhooks::start(Arc::clone(&app), receiver, wake))
                    .transpose()?,
                listener: Listener::start(listener, app.clone(), self.limits)?,
                _watcher: watcher::start(Arc::clone(&app))?,
                worker,
                app,
                grace: self.grace,
                _lock: lock,
            })
        };
        start().map_err(|error| failed("the server cannot start its threads", &error))
    }

    /// # Errors
    /// If other machines can reach the server, and there is no token.
    fn check_token(&self) -> Result<(), Error> {
        let address = self.address.ip();
        if address.is_loopback() || self.token.is_some() || self.token_file.is_some() {
            return Ok(());
        }
        let why = format!(
            "{address} can be reached from other machines: set a token that every client must send (`batchwright serve`: --token-file, or BATCHWRIGHT_TOKEN), or listen on 127.0.0.1"
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// The lock of the folder, which is held while the server runs, the folder, and what is stored in it.
    fn open_records(&mut self) -> Result<(File, PathBuf, Arc<Records>, Storage), Error> {
        let folder = match self.folder.take() {
            Some(folder) => folder,
            None => folder_of(&self.queue)?,
        };
        make_private_folder(&folder).map_err(|error| failed(folder.display(), &error))?;
        let lock = lock(&folder)?;
        let path = folder.join("server.db");
        self.queue.check_server(&path)?;
        let mut records = Records::open(&path, self.durability, self.worker.cancellation())?;
        match records.begin(&path, &self.queue) {
            // On a full disk, it starts so that files can be deleted.
            Err(error) if error.kind() == ErrorKind::Transient => {
                log::warn!("no batch goes on for now: {}", error.message());
            }
            begun => begun?,
        }
        records.webhook = self.webhook.as_ref().map(|_| Wake::new());
        let storage = Storage::open(&folder.join("files"), self.upload_bytes)?;
        Ok((lock, folder, Arc::new(records), storage))
    }
}

/// Locks the folder of a server: two would spoil each other's files.
pub(crate) fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join("server.lock");
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    let file = open_private(options, &path).map_err(|error| failed(path.display(), &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let why = format!(
                "another server uses {}: stop it, or give this one a folder of its own (`batchwright serve`: --data-dir)",
                folder.display()
            );
            Err(Error::new(ErrorKind::Invalid, why))
        }
        Err(TryLockError::Error(error)) => Err(failed(path.display(), &error)),
    }
}

/// Allows this process as many open files as it may allow itself, because each connection is one: shells often allow
/// 1,024.
pub fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::debug!("the limit of open files stays as it is: {error}");
    }
}

fn failed(what: impl fmt::Display, error: &io::Error) -> Error {
    Error::new(ErrorKind::Invalid, format!("{what}: {error}"))
}

/// How long requests are answered after the grace period: until then they wait for calls that end with it, and learn now
/// that the server stops.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Length of the queue of connections that wait to be accepted; the system may have a lower limit. The usual 128 are too
/// few if a thousand clients connect at once while the machine is busy: the others would try again after seconds.
const BACKLOG: i32 = 4096;

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let hint = if error.kind() == io::ErrorKind::AddrInUse {
            "; stop the program that listens there, or use another port"
        } else {
            ""
        };
        let why = format!("cannot listen on {address}: {error}{hint}");
        Error::new(ErrorKind::Invalid, why)
    })?;
    if let Err(error) = rustix::net::listen(&listener, BACKLOG) {
        log::debug!("the queue of new connections stays short: {error}");
    }
    Ok(listener)
}

/// The types of jobs that the worker carries out. With settings, whether a provider makes embeddings may change.
fn kinds(worker: &Worker, has_settings: bool) -> Vec<String> {
    let mut kinds = worker.kinds();
    if has_settings {
        kinds.extend([COMPLETION_KIND, EMBEDDING_KIND].map(str::to_owned));
        kinds.sort();
        kinds.dedup();
    }
    kinds
}

/// The folder in which the queue's database is.
fn folder_of(queue: &JobQueue) -> Result<PathBuf, Error> {
    let location = PathBuf::from(queue.location());
    match location.parent() {
        Some(folder) if location.exists() => Ok(folder.to_owned()),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            "this queue has no file: name a folder for uploaded files with data_dir",
        )),
    }
}

/// A server that answers, until it is stopped or dropped.
#[derive(derive_more::Debug)]
#[debug("RunningServer({})", listener.address())]
pub struct RunningServer {
    _watcher: Background,
    listener: Listener,
    batches: Background,
    webhook: Option<Background>,
    worker: RunningWorker,
    app: Arc<App>,
    grace: Duration,
    _lock: File,
}

impl RunningServer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.listener.connections()
    }

    /// True when the worker has ended, by itself or since its context was cancelled.
    pub fn is_finished(&self) -> bool {
        self.worker.is_finished()
    }

    /// Takes no more requests and starts no more jobs; waits for those under way, both at once, up to their grace
    /// periods. What is left goes back to the queue.
    ///
    /// # Errors
    /// What ended the worker.
    pub fn stop(mut self) -> Result<WorkerReport, Error> {
        self.app.events.close();
        let (listener, grace, worker) = (&mut self.listener, self.grace, self.worker);
        let report = thread::scope(|scope| {
            scope.spawn(|| listener.stop(grace + LAST_REPLIES));
            worker.stop()
        });
        drop((self.batches, self.webhook));
        report
    }
}
