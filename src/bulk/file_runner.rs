//! What a worker thread does for items of a file: it reads them, makes the call and renders the lines.

use crate::base::cancel::Context;
use crate::base::error::Error;
use crate::base::memory::MemoryManager;
use crate::engine::pack::Pack;
use crate::engine::run::{Reply, Runner};
use crate::engine::work::Ticket;
use crate::llm::request::Request;
use crate::llm::route::Route;

use super::input::{FileIndex, InputFile, Item, Unread};
use super::lines::{Keep, Lines, Named, call_for_lines};
use super::replies::Replies;
use super::shared::FileTask;

/// The name of an item that makes no prompt.
fn named(task: &FileTask, input: &InputFile, index: &FileIndex) -> Result<Named, Error> {
    let row = input.read_bad(task.index as usize, index)?;
    Ok(Named {
        id: row.id,
        request_hash: row.request_hash,
        model: None,
        input: row.input,
    })
}

pub(super) fn file_runner<'r>(
    route: &'r Route<'r>,
    input: &'r InputFile,
    index: &'r FileIndex,
    (replies, keep): (Option<&'r Replies>, &'r Keep<'r>),
) -> impl Runner<Pack<FileTask>, Lines> + 'r {
    move |ticket: &Ticket<Pack<FileTask>>, ctx: &Context| -> Reply<Lines> {
        let tasks: Vec<_> = ticket.task.iter().map(|member| &member.task).collect();
        let read = |task: &FileTask| {
            if let Some(why) = &task.unsent {
                let named = named(task, input, index).map_err(|error| (true, error))?;
                task.named.get_or_init(|| named);
                return Err((false, why.clone()));
            }
            let Item {
                mut request,
                request_hash,
            } = match input.read(task.index as usize, index) {
                Ok(item) => item,
                Err(Unread::Changed(changed)) => return Err((true, changed.into())),
                Err(Unread::Files {
                    id,
                    request_hash,
                    input,
                    error,
                }) => {
                    task.named.get_or_init(|| Named {
                        id,
                        request_hash,
                        model: None,
                        input,
                    });
                    return Err((false, error));
                }
            };
            let input = request.input.take();
            task.named.get_or_init(|| Named {
                id: request.id.clone().unwrap_or_default(),
                request_hash,
                model: request.model.clone(),
                input,
            });
            Ok(request)
        };
        let bytes = tasks
            .iter()
            .map(|task| input.record_bytes(task.index as usize, index));
        // Given back when the call has ended.
        let mut room = match MemoryManager::of_process().wait_for_prompts(bytes.sum(), ctx) {
            Ok(room) => room,
            Err(error) => return error.into(),
        };
        let requests: Vec<Request> = match tasks.iter().copied().map(read).collect() {
            Ok(requests) => requests,
            Err((fatal, error)) => {
                let error: Error = error;
                return Reply {
                    fatal,
                    ..error.into()
                };
            }
        };
        if let Some(room) = &mut room {
            room.holds_requests();
        }
        let requests: Vec<_> = requests.iter().collect();
        call_for_lines(
            route,
            &requests,
            &tasks,
            (&ticket.tries, &ticket.timer),
            (replies, keep),
            ctx,
        )
    }
}
