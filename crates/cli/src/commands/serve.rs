//! `batchwright serve`: the queue over HTTP, with a worker. `batchwright token`: tokens for the clients of a server.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use batchwright::progress::Metrics;
use batchwright::{Context, ErrorKind, ErrorPolicy, Secret};
use batchwright_server::{Role, RunningServer, Server};

use crate::args::worker::ServeArgs;
use crate::background::Cancelled;
use crate::display;
use crate::exit::{Exit, Refusal, could_not_run};
use crate::queue::{durability, folder};
use crate::settings::in_folder;
use crate::signals::{GRACE, Signals};
use crate::{stdout, worker};
use batchwright::unstable::{Optional, named_file};

/// Minimum length of a token; shorter ones can be guessed.
const TOKEN_CHARACTERS: usize = 16;
/// Interval of checks whether the worker is still running.
const LOOK: Duration = Duration::from_secs(1);

pub fn execute(args: &ServeArgs) -> Result<Exit, Refusal> {
    args.worker.memory.apply();
    let ctx = Context::new().with_grace(GRACE);
    let stopping = format!(
        "stopping: running requests and jobs have up to {} s to finish; press Ctrl-C again to stop now",
        ctx.grace().as_secs()
    );
    let _signals = Signals::watch(&ctx, stopping)?;
    let cancelled = Cancelled::of(&ctx);
    let token = token(args)?;
    let folder = folder()?;
    let config = Arc::new(in_folder(&folder));
    let watch = worker::settings(&args.worker, config.clone())?;
    let settings = watch.settings().clone();
    let manager = worker::manager(&args.worker, &settings)?;
    let queue = worker::queue(&args.worker, None, &folder, &ctx)?;
    display::note(worker::line(manager.plan())?);
    let metrics = Metrics::new();
    let audio = args.worker.audio_dir.as_deref();
    let types = worker::job_types_of_worker(&settings, audio, &folder).map_err(could_not_run)?;
    let accepted = worker::job_types_of_clients(&settings).map_err(could_not_run)?;
    let manager = manager
        .context(&ctx)
        .observer(Arc::new(metrics.clone()))
        .follow(watch)
        .job_types(&types)
        .on_settings(worker::tell_change);
    let worker = manager
        .worker(&queue)
        .map_err(could_not_run)?
        .on_error(ErrorPolicy::ContinueOnError);
    let server = Server::new(queue, worker)
        .data_dir(&folder)
        .manager(manager)
        .settings(settings, config)
        .map_err(could_not_run)?
        .job_types(accepted)
        .metrics(metrics);
    let server = with_webhook(with_flags(server, args, token), args)?;
    let running = server.start().map_err(could_not_run)?;
    announce(&running);
    while cancelled.receiver.recv_timeout(LOOK).is_err() {
        if running.is_finished() {
            break;
        }
    }
    let report = running.stop().map_err(could_not_run)?;
    display::unsaved(&report);
    match report.stop.as_ref().filter(|_| !ctx.is_cancelled()) {
        Some(stop) => Err(Refusal::could_not_run(format!(
            "the worker stopped: {stop}"
        ))),
        None => Ok(Exit::Success),
    }
}

/// The server at the address of the flags, with their limits.
fn with_flags(server: Server, args: &ServeArgs, token: Option<Secret>) -> Server {
    let server = server
        .address(SocketAddr::new(args.host, args.port))
        .max_connections(args.max_connections)
        .max_upload_bytes(args.max_uploads)
        .durability(durability(args.worker.fsync))
        .grace(GRACE)
        .set(token, Server::token)
        .set(args.token_file.clone(), Server::token_file);
    args.allow_host.iter().fold(server, Server::allow_host)
}

/// The server with the webhook of the flags.
fn with_webhook(server: Server, args: &ServeArgs) -> Result<Server, Refusal> {
    let Some(url) = &args.webhook else {
        return Ok(server);
    };
    let secret = match &args.webhook_secret_file {
        Some(file) => named_file::read_text(file, 64 << 10)
            .map_err(|error| Refusal::usage(format!("{}: {error}", file.display())))?,
        None => std::env::var("BATCHWRIGHT_WEBHOOK_SECRET").unwrap_or_default(),
    };
    if secret.trim().is_empty() {
        let why =
            "--webhook needs a secret: set --webhook-secret-file or BATCHWRIGHT_WEBHOOK_SECRET";
        return Err(Refusal::usage(why));
    }
    let server = server.webhook(url, &Secret::new(secret));
    server.map_err(|error| Refusal::usage(error.message()))
}

/// Prints the address: for scripts on standard output, for people on standard error.
fn announce(running: &RunningServer) {
    let url = format!("http://{}", running.address());
    let mut out = std::io::stdout();
    let _ = writeln!(out, "ready {url}").and_then(|()| out.flush());
    display::note(format!("  dashboard      {url}/"));
    display::note(format!(
        "  jobs           {url}/api/v1  (described at {url}/api/v1/openapi.json)"
    ));
    display::note(format!("  OpenAI clients {url}/v1"));
}

/// The token of the environment; the file overrides it.
fn token(args: &ServeArgs) -> Result<Option<Secret>, Refusal> {
    let text = match std::env::var("BATCHWRIGHT_TOKEN") {
        Ok(text) if args.token_file.is_none() => text,
        _ => return Ok(None),
    };
    let text = text.trim();
    if text.chars().count() < TOKEN_CHARACTERS {
        let why = format!(
            "BATCHWRIGHT_TOKEN has fewer than {TOKEN_CHARACTERS} characters and could be guessed; make a token: openssl rand -hex 32"
        );
        return Err(Refusal::usage(why));
    }
    Ok(Some(Secret::new(text)))
}

pub fn new_token(name: &str, role: Role) -> Result<Exit, Refusal> {
    let made = batchwright_server::new_token(name, role);
    let (token, line) = made.map_err(|error| match error.kind() {
        ErrorKind::Invalid => Refusal::usage(error.message()),
        _ => could_not_run(error),
    })?;
    let exit = stdout::print(&format!("{line}\n"), Exit::Success);
    if exit == Exit::Success {
        let token = token.expose();
        display::say(&format!("token of {name}, shown only now: {token}"));
    }
    Ok(exit)
}
