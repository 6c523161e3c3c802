//! The ledgers of runs, compared with the result lines of their outputs.

use std::path::Path;

use batchwright::provider::{LedgerColumn, LedgerRow};
use batchwright::queue::HealthFinding;

use super::{good, note, warning};
use crate::format::number_of;
use crate::ledger::{Found, cost_of_lines, of_runs};
use crate::runs::output_of;

const WHAT: &str = "ledger";
/// Maximum size in bytes of an output that is compared, because a check should not take minutes.
const MOST_COMPARED: u64 = 256 << 20;

/// Whether the ledgers of the runs that this data folder knows have what the result lines cost. They may have more, for
/// calls without a line.
pub fn ledgers(folder: &Path) -> Vec<HealthFinding> {
    let Found { ledger, unreadable } = match of_runs(folder) {
        Ok(found) => found,
        Err(refusal) => return vec![warning(WHAT, refusal.message, "repair the data folder")],
    };
    let mut findings: Vec<_> = unreadable.iter().map(|path| damaged(path)).collect();
    let (mut balanced, mut skipped) = (0, 0);
    for row in ledger.by(&[LedgerColumn::Run]) {
        let [(_, Some(output))] = &row.group[..] else {
            continue;
        };
        match compared(output, &row) {
            None => skipped += 1,
            Some(Ok(())) => balanced += 1,
            Some(Err(finding)) => findings.push(finding),
        }
    }
    if balanced > 0 {
        let runs = number_of(balanced, "run", "runs");
        findings.push(good(
            WHAT,
            format!("covers the cost of the result lines of {runs}"),
        ));
    }
    if skipped > 0 {
        let runs = number_of(skipped, "run", "runs");
        let seen =
            format!("{runs} not compared: the output does not exist or has more than 256 MiB");
        findings.push(good(WHAT, seen));
    }
    findings
}

fn damaged(path: &Path) -> HealthFinding {
    let seen = format!("{} cannot be read, or only in part", path.display());
    let advice = if output_of(path).is_some() {
        "do not delete it while its run is not finished, because it knows the batches that are paid. `batchwright ledger -vv` \
         shows the error; make the file readable, or restore it from a backup"
    } else {
        "`batchwright ledger` lacks its calls: restore the file from a backup, or delete it. The provider's invoice shows \
         what was paid"
    };
    warning(WHAT, seen, advice)
}

/// Whether an output with this row of the ledger costs no more. Returns `None` if it does not exist or is large.
fn compared(output: &str, row: &LedgerRow) -> Option<Result<(), HealthFinding>> {
    let lines = match cost_of_lines(Path::new(output), MOST_COMPARED) {
        Ok(lines) => lines?,
        Err(error) => {
            let seen = format!("{output} cannot be compared: {error}");
            return Some(Err(note(WHAT, seen, "make the file readable")));
        }
    };
    let booked = row.sum.cost_usd;
    if lines <= booked {
        return Some(Ok(()));
    }
    let seen = format!(
        "the result lines of {output} cost {lines}, and the ledger has only {booked} for them"
    );
    let advice = "normal if lines were copied from another output or written with another data folder (batchwright ledger \
                  --data-dir DIR). Otherwise please report it as a bug; the provider's invoice shows what was paid";
    Some(Err(note(WHAT, seen, advice)))
}
