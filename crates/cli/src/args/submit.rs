//! The arguments of `batchwright submit`.

use batchwright::files::InputFormat;
use batchwright::queue::PRIORITIES;
use batchwright::{ProcessId, Usd};
use batchwright_jobs::JobTypes;
use clap::{Arg, Args};

use super::input::{BadRows, InputArgs};
use super::shared::{DataArgs, MORE, PromptArgs, ShowArgs, TaskArg};
use super::values::{dollars, name};

/// Put prompts on the queue; print the id of their process
///
/// INPUT is checked completely before anything is queued, as with `run`. Nothing is sent: `batchwright work` does
/// that, now or later, here or in another terminal. Either all prompts are queued or none.
#[derive(Debug, Args)]
#[command(after_help = MORE, after_long_help = include_str!("../../data/help/submit.txt"), mut_arg("types", type_flag))]
pub struct SubmitArgs {
    #[command(flatten)]
    pub input: InputArgs,

    /// Model for prompts that name none
    ///
    /// [default: the worker's]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub model: Option<String>,

    #[command(flatten)]
    pub prompt: PromptArgs,

    /// Priority of the jobs, 1 to 10
    ///
    /// Higher ones start first. Also by name: critical (10), high (7 to 9), normal (4 to 6), low (1 to 3) [default:
    /// 5, or that of the --type]
    #[arg(help_heading = "Queue", long, value_name = "N", value_parser = priority)]
    pub priority: Option<u8>,

    /// Retries of an item at each provider [default: the worker's]
    #[arg(help_heading = "Queue", long, value_name = "N", hide_short_help = true)]
    pub max_retries: Option<u8>,

    /// Maximum cost of the process in US dollars
    ///
    /// No job of the process starts when the most that the next call can cost does not fit. Calls in flight of several
    /// workers may exceed it. A request without a known price fails. To change it: batchwright retry --budget
    #[arg(help_heading = "Queue", long, alias = "max-cost", value_name = "USD", value_parser = dollars)]
    pub budget: Option<Usd>,

    /// Display name of the process [default: the input's]
    ///
    /// Shown for example in `batchwright status`.
    #[arg(help_heading = "Queue", long, value_name = "NAME", value_parser = name)]
    pub name: Option<String>,

    /// Id of the process, to submit at most once: a UUID that you generate and that is not in the queue yet
    /// [default: a new one]
    #[arg(
        help_heading = "Queue",
        long,
        value_name = "ID",
        hide_short_help = true
    )]
    pub process: Option<ProcessId>,

    #[command(flatten, next_help_heading = "Queue")]
    pub data: DataArgs,

    /// Print the id and the number of jobs, or the error, as JSON
    #[arg(help_heading = "Display", long)]
    pub json: bool,

    #[command(flatten)]
    pub show: ShowArgs,
}

impl SubmitArgs {
    /// The type of the jobs whose payloads the lines contain, if they are not prompts: the value of `--type`, unless
    /// that is a type of files in a folder.
    pub fn job_type(&self) -> Option<&str> {
        let name = self.input.reading.folder.types.first()?;
        let known = JobTypes::new().get(name).is_ok();
        let of_files = self.input.files.iter().any(|path| path.is_dir());
        (known || !of_files).then_some(name)
    }

    /// A flag about prompts or their requests, if one is given.
    pub fn prompt_flag(&self) -> Option<&'static str> {
        let (prompt, input) = (&self.prompt, &self.input);
        let reading = &input.reading;
        let given = [
            (self.model.is_some(), "--model"),
            (prompt.template.is_some(), "--template"),
            (prompt.system.is_some(), "--system"),
            (prompt.json_schema.is_some(), "--json-schema"),
            (prompt.json_mode, "--json-mode"),
            (prompt.max_tokens.is_some(), "--max-tokens"),
            (prompt.temperature.is_some(), "--temperature"),
            (prompt.extra.is_some(), "--extra"),
            (prompt.service_tier.is_some(), "--service-tier"),
            (prompt.dimensions.is_some(), "--dimensions"),
            (prompt.keep_reply, "--keep-reply"),
            (matches!(prompt.task, TaskArg::Embed), "--task"),
            (input.bad_rows == BadRows::Skip, "--bad-rows"),
            (!input.keep.is_empty(), "--keep"),
            (reading.root.is_some(), "--root"),
            (reading.allow_outside, "--allow-outside"),
            (reading.split.is_some(), "--split"),
            (!reading.pattern.is_empty(), "--pattern"),
        ];
        given
            .into_iter()
            .find(|(given, _)| *given)
            .map(|(_, flag)| flag)
    }
}

impl SubmitArgs {
    /// A flag for reading other formats than lines of JSON, if one is given.
    pub fn other_input_flag(&self) -> Option<&'static str> {
        let reading = &self.input.reading;
        let is_utf8 = |name: &String| ["utf-8", "utf8"].contains(&&*name.to_ascii_lowercase());
        let given = [
            (
                reading.format.is_some_and(|it| it != InputFormat::Jsonl),
                "--format",
            ),
            (
                reading.encoding.as_ref().is_some_and(|name| !is_utf8(name)),
                "--encoding",
            ),
            (reading.delimiter.is_some(), "--delimiter"),
            (reading.quotes.is_some(), "--quotes"),
            (reading.sheet.is_some(), "--sheet"),
        ];
        given
            .into_iter()
            .find(|(given, _)| *given)
            .map(|(_, flag)| flag)
    }
}

fn type_flag(flag: Arg) -> Arg {
    let lines = JobTypes::new().all().into_iter();
    let lines = lines.map(|one| format!("\n  {}: {}", one.name(), one.description()));
    let long = format!(
        "Type of the jobs, if they are not prompts\n\nEach line of INPUT is then a JSON object, the payload of a job; an `id` in \
         it names the job. docs/jobs.md describes the payloads of these types:{}\n\nFor a folder: only files of this type, \
         by ripgrep's names: py, rust, js, ts, go, md …",
        lines.collect::<String>()
    );
    flag.help("Type of the jobs, if they are not prompts")
        .long_help(long)
        .help_heading("Queue")
        .value_name("TYPE")
        .hide_short_help(false)
}

/// A number, or a word for one.
fn priority(text: &str) -> Result<u8, String> {
    let number = match text.trim() {
        "critical" => Some(10),
        "high" => Some(8),
        "normal" => Some(5),
        "low" => Some(2),
        other => other.parse().ok(),
    };
    number
        .filter(|number| PRIORITIES.contains(number))
        .ok_or_else(|| "write 1 to 10, or critical, high, normal or low".to_owned())
}
