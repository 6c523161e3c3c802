//! Converts one record to one request: the record's own values first, then the defaults of the run.

use crate::llm::attachment::{self, Root};
use crate::llm::request::{Request, Role};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::cells::Field;
use super::fault::{Fault, check_nul, utf8};
use super::fields::Parsed;
use super::json;
use super::row::{from_template, prompt};
use super::table::Header;
use super::{Form, PromptSettings};
use crate::base::MemoryManager;
use crate::llm::params::RequestTask;

/// Parses a record without its line end; with a header, a row of a table.
pub(crate) fn parse_record(
    form: Form,
    header: Option<&Header>,
    bytes: &[u8],
    settings: &PromptSettings,
    root: &Root,
) -> Result<Request, Fault> {
    let most = MemoryManager::of_process().largest_prompt();
    if bytes.len() as u64 > most {
        return Err(Fault::new(
            format!("a prompt of {} bytes", bytes.len()),
            format!("at most {most}, 1/3 of the memory limit (--max-memory SIZE)"),
        ));
    }
    let text = utf8(bytes)?;
    let parsed = match header {
        Some(header) => Parsed::new(header.request(text, settings)?),
        None if form != Form::Text => json::line(text, settings)?,
        None => {
            check_nul(text)?;
            let line = text.strip_suffix('\n').unwrap_or(text);
            let line = line.strip_suffix('\r').unwrap_or(line);
            let request = match &settings.template {
                None => prompt(line.to_owned())?,
                Some(template) => {
                    let field = |name: &str| (name == "prompt").then_some(Field::Text(line.into()));
                    from_template(template, field, Fault::null)?
                }
            };
            Parsed::new(request)
        }
    };
    let mut request = settings.fill(parsed)?;
    resolve(&mut request, root).map_err(Fault::refused)?;
    check_embedded(&request)?;
    Ok(request)
}

/// Parses a line of JSON from no file. It cannot name local files, because they have no folder. Its faults name no
/// flags, because its author may not run the program.
pub(crate) fn parse_alone(text: &str, settings: &PromptSettings) -> Result<Request, Fault> {
    let parsed = json::line(text, settings).map_err(Fault::without_flags)?;
    let request = settings.fill(parsed)?;
    if request.files().next().is_some() {
        return Err(Fault::new(
            "a part of a message that names a file of this machine",
            "its content, or its address",
        ));
    }
    check_embedded(&request)?;
    Ok(request)
}

fn check_embedded(request: &Request) -> Result<(), Fault> {
    match request.task {
        RequestTask::Embed => request
            .only_embedded()
            .map(drop)
            .map_err(|found| Fault::new(found, "only the text to embed")),
        RequestTask::Complete | RequestTask::Speech => Ok(()),
    }
}

/// The data of a record that makes no prompt: its id, if it can be read, and a hash of its bytes.
pub(super) fn bad_row(
    form: Form,
    header: Option<&Header>,
    bytes: &[u8],
    settings: &PromptSettings,
) -> (Option<String>, [u8; 32]) {
    let text = std::str::from_utf8(bytes).ok();
    let id = text.and_then(|text| match header {
        Some(header) => header.id(text),
        None if form == Form::Text => None,
        None => json::id(text, settings),
    });
    let digest = Sha256::new().chain_update(b"bad row\n").chain_update(bytes);
    (id, digest.finalize().into())
}

impl PromptSettings {
    /// Rejects settings that do not suit any record of that format.
    pub(super) fn check(&self, form: Form) -> Result<(), Fault> {
        match (&self.template, form) {
            _ if self.task == RequestTask::Speech => Err(Fault::new(
                "the task to speak",
                "answers or embeddings: a file of results cannot contain audio",
            )),
            _ if form == Form::Text && self.roles.are_named() => Err(Fault::new(
                "--column",
                "a table or JSON: lines of text have neither columns nor ids",
            )),
            (Some(_), _) if self.roles.messages.is_some() => Err(Fault::new(
                "--template and --column messages",
                "one of them: each makes the prompt",
            )),
            _ if form == Form::Text && self.keep.is_on() => Err(Fault::new(
                "--keep",
                "a table or JSON: a line of text has no columns besides the prompt",
            )),
            (Some(template), Form::Text) => {
                template.check("the line as a whole", &["prompt"], &|name| name == "prompt")
            }
            _ => Ok(()),
        }
    }

    fn fill(&self, parsed: Parsed) -> Result<Request, Fault> {
        let Parsed {
            mut request,
            format,
        } = parsed;
        request.task = self.task;
        request.keep_reply = self.keep_reply;
        let params = &mut request.params;
        params.dimensions = params.dimensions.or(self.dimensions);
        params.max_tokens = params.max_tokens.or(self.max_tokens);
        params.temperature = params.temperature.or(self.temperature);
        if !format {
            params.response_format.clone_from(&self.format);
        }
        if request.model.is_none() {
            request.model.clone_from(&self.model);
        }
        if request.system.is_none() {
            request.system.clone_from(&self.system);
        }
        for (name, value) in &self.extra {
            if !request.extra.contains_key(name) {
                request.extra.insert(name.clone(), value.clone());
            }
        }
        let cuts = self.roles.without_answer && request.ends_with_answer();
        if cuts && !request.leave_out_last() {
            let expected = "messages before it, since --column leaves it out";
            return Err(Fault::new("only a message of the assistant", expected));
        }
        Ok(request)
    }
}

/// Resolves the files that the messages of a request name.
pub(super) fn resolve(request: &mut Request, root: &Root) -> Result<(), String> {
    for message in &mut request.messages {
        let Value::Array(parts) = &mut message.content else {
            continue;
        };
        for part in parts.iter_mut().filter(|part| attachment::is_local(part)) {
            if message.role != Role::User {
                return Err(attachment::refusal(
                    &format!("a file in a message of the role {}", message.role.as_str()),
                    "files only in messages of the user",
                ));
            }
            attachment::resolve(part, root)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
