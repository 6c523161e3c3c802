//! Lines at the start of a run: its plan.

use batchwright::files::RunPlan;
use batchwright::progress::FailureCause;

use crate::args::run::RunArgs;
use crate::format::{count, counts, number_of};
use crate::sanitize::shortened;

const CHANGED_WITHOUT_IDS: &str = " (rows without ids become new items if a setting changes: add ids to replace \
    their results, or name a new output)";

/// The plan on one line.
pub fn plan_line(plan: &RunPlan) -> String {
    let bad_rows = match plan.bad_rows {
        1 => "bad row that is not sent",
        _ => "bad rows that are not sent",
    };
    let unusable = "equal to ones with unusable replies, not sent";
    let mut parts = counts([
        (plan.done, "finished before"),
        (plan.failed_before, "failed before"),
        (plan.unusable_before, "with unusable replies"),
        (plan.changed, "changed"),
        (plan.bad_rows, bad_rows),
        (plan.under_way, "under way"),
        (plan.to_collect, "done, to be collected"),
        (plan.to_send, "to send"),
        (
            plan.repeated,
            "of them equal to others (--dedupe sends those once)",
        ),
        (plan.equal, "answered with equal ones"),
        (plan.answered, "answered by earlier results of equal ones"),
        (plan.unusable_equal, unusable),
    ]);
    if plan.to_send == 0 {
        parts.push("nothing to send".to_owned());
    }
    let mut line = format!("{} items: {}", count(plan.total), parts.join(", "));
    if plan.without_id > 0 && plan.done + plan.failed_before + plan.foreign == 0 {
        let rows = number_of(
            plan.without_id,
            "row has no id; it gets one",
            "rows have no id; each gets one",
        );
        line.push_str(&format!(
            "; {rows} made from its request. To match results with rows, add a column id or --id-column NAME"
        ));
    }
    if plan.foreign > 0 {
        let results = number_of(
            plan.foreign,
            "result of another item, which stays",
            "results of other items, which stay",
        );
        line.push_str(&format!("; the output also has {results}"));
        if plan.without_id > 0 {
            line.push_str(CHANGED_WITHOUT_IDS);
        }
    }
    if plan.restored > 0 {
        let n = count(plan.restored);
        line.push_str(&format!(
            "; {n} answers are taken back from the superseded ones"
        ));
    }
    for (n, one, many) in [
        (
            plan.superseded,
            "earlier answer is superseded",
            "earlier answers are superseded",
        ),
        (
            plan.under_way_superseded,
            "answer under way will be superseded",
            "answers under way will be superseded",
        ),
    ] {
        if n > 0 {
            line.push_str(&format!("; {}", number_of(n, one, many)));
        }
    }
    line
}

/// Why rows are not sent, each cause with its number of rows.
pub fn bad_row_lines(plan: &RunPlan) -> Vec<String> {
    let (shown, rest) = plan
        .bad_row_causes
        .split_at(plan.bad_row_causes.len().min(3));
    let rows = |n| number_of(n, "bad row", "bad rows");
    let cause = |cause: &FailureCause| {
        let message = shortened(&cause.message, 200);
        format!("  {}: {message}", rows(cause.items))
    };
    let mut lines: Vec<String> = shown.iter().map(cause).collect();
    if !rest.is_empty() {
        let others = rest.iter().map(|cause| cause.items).sum();
        lines.push(format!("  {} for other causes", rows(others)));
    }
    lines
}

/// How many answered items are sent again, and what happens to their earlier answers.
pub fn differing_line(args: &RunArgs, plan: &RunPlan) -> Option<String> {
    let output = args.output.as_ref()?;
    if plan.differing == 0 {
        return None;
    }
    let answers = match plan.changed + plan.under_way_superseded {
        0 => "their earlier answers stay in the output".to_owned(),
        _ => format!(
            "their earlier answers move to {}.superseded.jsonl when the run ends",
            output.display()
        ),
    };
    Some(format!(
        "{} of {} requests differ from those answered before; {answers}",
        count(plan.differing),
        count(plan.total),
    ))
}

/// What happens to items with a billed but unusable reply.
pub fn unusable_line(args: &RunArgs, plan: &RunPlan) -> Option<String> {
    let items = plan.unusable_before + plan.unusable_equal;
    let n = count(items);
    (items > 0).then(|| if args.ask_again { format!(
        "{n} items have replies that were paid for and cannot be read; they are sent, and paid \
         for, again"
    ) } else { format!(
        "{n} items have replies that were paid for and cannot be read; --ask-again sends them again"
    ) })
}
