//! Lists costs: from the ledger of the queue, and from the ledgers of runs in the data folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use batchwright::files::store_path;
use batchwright::unstable::RunBook;
use batchwright::{JobQueue, Ledger, Usd};
use serde::Deserialize;

use super::args::shared::DataArgs;
use super::args::text_file::without_bom;
use super::exit::Refusal;
use super::queue::{failed, open_existing};
use super::runs;

/// The folder with the ledgers of runs.
pub fn books(data_folder: &Path) -> PathBuf {
    data_folder.join("ledger")
}

/// The name of a run in the ledger: the path of its output.
pub fn name_of(output: &Path) -> String {
    let store = store_path(output).map(|store| store.with_extension(""));
    store
        .unwrap_or_else(|_| output.to_owned())
        .to_string_lossy()
        .into_owned()
}

/// A ledger, and the places that could not be read.
#[derive(Default)]
pub struct Found {
    pub ledger: Ledger,
    pub unreadable: Vec<PathBuf>,
}

/// The ledger of the queue, and of the runs that the data folder knows. If a queue file is named, only its own.
pub fn gather(data: &DataArgs) -> Result<Found, Refusal> {
    let of_queue = match data.existing()? {
        Some(queue) => all_of(&queue, data.queue.as_deref())?,
        None => Ledger::new(),
    };
    let mut found = match data.queue {
        Some(_) => Found::default(),
        None => of_runs(&data.folder()?)?,
    };
    found.ledger.extend(of_queue.charges());
    Ok(found)
}

/// The ledgers of the runs that a data folder knows.
pub fn of_runs(folder: &Path) -> Result<Found, Refusal> {
    let mut found = Found::default();
    let mut copied = BTreeSet::new();
    for store in runs::known(folder) {
        // The store is newer than the copy of its charges. If it cannot be read, the copy counts.
        let read = open_existing(&store).map_err(failed).and_then(|queue| {
            let ledger = all_of(&queue, Some(&store))?;
            Ok((queue.id().map_err(failed)?, ledger))
        });
        match read {
            Ok((id, ledger)) => {
                found.ledger.extend(ledger.charges());
                copied.insert(id);
            }
            Err(refusal) => {
                log::debug!("{}", refusal.text());
                found.unreadable.push(store);
            }
        }
    }
    let books = books(folder);
    let (ledger, unreadable) = RunBook::read_all(&books, &copied).map_err(|error| {
        Refusal::could_not_run(format!("{} cannot be read: {error}", books.display()))
    })?;
    found.ledger.extend(ledger.charges());
    found.unreadable.extend(unreadable);
    Ok(found)
}

/// The known cost of the result lines of an output; `None` if it does not exist or has more than `most` bytes.
pub fn cost_of_lines(output: &Path, most: u64) -> io::Result<Option<Usd>> {
    #[derive(Deserialize)]
    struct Line {
        cost_usd: Option<Usd>,
    }
    let file = match File::open(output) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    if file.metadata()?.len() > most {
        return Ok(None);
    }
    let cost = |line: io::Result<String>| {
        // An incomplete line does not count yet.
        let line: Option<Line> = serde_json::from_str(without_bom(&line?)).ok();
        Ok(line.and_then(|line| line.cost_usd).unwrap_or_default())
    };
    BufReader::new(file)
        .lines()
        .map(cost)
        .sum::<io::Result<Usd>>()
        .map(Some)
}

/// The charges of a queue. The processes of a run's store are shown under the name of its output.
fn all_of(queue: &JobQueue, file: Option<&Path>) -> Result<Ledger, Refusal> {
    let ledger = queue.ledger(None, None).map_err(failed)?;
    let output = file.and_then(runs::output_of);
    let Some(output) = output else {
        return Ok(ledger);
    };
    let run = Some(name_of(&output));
    Ok(ledger
        .charges()
        .map(|charge| charge.run(run.clone()))
        .collect())
}
