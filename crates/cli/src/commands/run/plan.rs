//! Lines at the start of a run: its plan.

use batchwright::files::RunPlan;

use crate::args::run::{Resend, RunArgs};
use crate::format::{count, counts, number_of};

/// The plan, and what happens to earlier answers.
pub fn lines(args: &RunArgs, plan: &RunPlan) -> Vec<String> {
    let mut lines = vec![plan_line(plan)];
    if let Some(output) = args.output.as_ref().filter(|_| plan.differing > 0) {
        let answers = match plan.total.saturating_sub(plan.without_id) {
            0 => "their earlier answers stay in the output".to_owned(),
            _ => format!(
                "their earlier answers move to {}.superseded.jsonl when the run ends",
                output.display()
            ),
        };
        lines.push(format!(
            "{} of {} requests differ from those answered before; {answers}",
            count(plan.differing),
            count(plan.total),
        ));
    }
    let unusable = plan.unusable_before + plan.unusable_equal;
    if unusable > 0 {
        let what = if args.resend == Resend::All {
            "they are sent, and paid for, again"
        } else {
            "--resend all sends them again"
        };
        lines.push(format!(
            "{} items have replies that were paid for and cannot be read; {what}",
            count(unusable)
        ));
    }
    lines
}

fn plan_line(plan: &RunPlan) -> String {
    let bad_rows = match plan.bad_rows {
        1 => "bad row that is not sent",
        _ => "bad rows that are not sent",
    };
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
        (
            plan.unusable_equal,
            "equal to ones with unusable replies, not sent",
        ),
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
    let earlier = counts([
        (plan.foreign, "results of other items stay in the output"),
        (plan.restored, "answers are taken back"),
    ]);
    for text in earlier {
        line.push_str(&format!("; {text}"));
    }
    line
}
