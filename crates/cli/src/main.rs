//! The program `batchwright`: arguments in, exit code out. Uses only the library's public API.

mod args;
mod background;
mod budget;
mod command_line;
mod commands;
mod display;
mod exit;
mod format;
mod input;
mod parse;
mod payloads;
mod prompts;
mod provider;
mod queue;
#[cfg(test)]
mod reference;
mod sanitize;
mod settings;
mod signals;
mod stderr;
mod stdout;
mod worker;

use std::process::ExitCode;

use args::worker::TokenAction;
use args::{Cli, Command};
use commands::{
    cancel, config, doctor, exec, export, providers, restore, results, run, scan, serve, simulate,
    status, submit, work,
};
use exit::{Exit, Refusal};

/// In the static program, because that of musl is slow with threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Must be first: this process may have been started to keep the commands of another one.
    batchwright_exec::confine_main();
    let exit = match parse::parse(std::env::args_os()) {
        Ok(cli) => execute(cli),
        Err(exit) => exit,
    };
    // Waits a moment until all messages are written.
    stderr::flush();
    exit.into()
}

fn execute(cli: Cli) -> Exit {
    cli.say.start_log();
    if let Some(named) = cli.say.data_dir {
        settings::NAMED_FOLDER.get_or_init(|| named);
    }
    if let Command::Restore(args) = &cli.command {
        settings::NAMED_FOLDER.get_or_init(|| args.folder.clone());
    }
    signals::outlive_size_limits();
    // Commands that `exec` starts keep the limit that the caller has set.
    if !matches!(cli.command, Command::Exec(_)) {
        batchwright_server::raise_file_limit();
    }
    carry_out(cli.command).unwrap_or_else(Refusal::end)
}

fn carry_out(mut command: Command) -> Result<Exit, Refusal> {
    parse::check_words()?;
    // It reports what is wrong, so it also works if the settings cannot be read.
    let is_doctor = matches!(command, Command::Doctor(_));
    // They do not change the version of a queue that an earlier program may be working on.
    let looks = is_doctor || matches!(command, Command::Status(_) | Command::Results(_));
    let found = command.store().map_or(Ok(()), |store| {
        store.as_it_is = looks;
        queue::find_store(store)
    });
    if !is_doctor {
        found?;
    }
    match command {
        Command::Run(args) => run::execute(&args),
        Command::Submit(args) => submit::execute(&args),
        Command::Work(args) => work::execute(&args),
        Command::Serve(args) => serve::execute(&args),
        Command::Status(args) => status::execute(&args),
        Command::Results(args) => results::execute(&args),
        Command::Export(args) => export::execute(&args),
        Command::Scan(args) => scan::execute(&args),
        Command::Exec(args) => exec::execute(&args),
        Command::Cancel(args) => cancel::execute(&args),
        Command::Retry(args) => cancel::retry(&args),
        Command::Doctor(args) => doctor::execute(&args),
        Command::Restore(args) => restore::execute(&args),
        Command::Providers { model } => providers::execute(model),
        Command::Config(action) => config::execute(&action),
        Command::Token(TokenAction::New { name, role }) => serve::new_token(&name, role),
        Command::Completions { shell } => Ok(parse::print_completions(shell)),
        Command::Simulate(args) => simulate::execute(&args, signals::wait_for_stop)
            .map_err(|error| Refusal::could_not_run(error.to_string())),
    }
}
