//! Tables for people: the plan, what became of it, and the documentation of the rows.

use std::fmt::Write;

use crate::host::{Applies, Blocks, HostAct, HostPlan, Level, Need, Outcome, ROWS, StepReport, Verdict};

fn level(level: Level) -> &'static str {
    match level {
        Level::Needed => "needed",
        Level::Wished => "wished",
    }
}

pub(super) fn blocks(blocks: Blocks) -> &'static str {
    match blocks {
        Blocks::Nothing => "",
        Blocks::Server => "being a server",
        Blocks::Everything => "running k3s",
    }
}

/// The plan as a table of rows, what would be done, what cannot be mended, and what the host may be.
#[must_use]
pub fn render_table(plan: &HostPlan) -> String {
    let mut rows = vec![["ROW", "LEVEL", "STATE", "SEEN"].map(str::to_owned)];
    for row in &plan.rows {
        let state = match (row.verdict, row.planned) {
            (Verdict::Ok, _) => "ok",
            (Verdict::Missing, true) => "to do",
            (Verdict::Missing, false) => "missing",
            (Verdict::Unknown, _) => "unknown",
            (Verdict::Skipped, _) => "skipped",
        };
        rows.push([row.row.clone(), level(row.level).into(), state.into(), row.detail.clone()]);
    }
    let mut text = columns(&rows);
    if !plan.steps.is_empty() {
        let _ = writeln!(text, "\nTo do:");
        let mut row = "";
        for (number, step) in plan.steps.iter().enumerate() {
            // The reason once for each row.
            if step.row != row {
                row = step.row;
                let _ = writeln!(text, "  {row}: {}", step.why.next);
            }
            let _ = writeln!(text, "{:>5}. {}", number + 1, step.act);
            if let HostAct::PutFile { lines, .. } = &step.act {
                for line in lines {
                    let _ = writeln!(text, "         {line}");
                }
            }
        }
    }
    if !plan.findings.is_empty() {
        let _ = writeln!(text, "\nFor you to know:");
        for finding in &plan.findings {
            let stops = match blocks(finding.blocks) {
                "" => String::new(),
                what => format!(" [stops this host from {what}]"),
            };
            let _ = writeln!(text, "  {}: {}{stops}: {}", finding.row, finding.why.detail, finding.why.next);
        }
    }
    let verdict = match (plan.may_run(), plan.may_serve()) {
        (_, true) => "a server or an agent",
        (true, false) => "an agent only",
        (false, _) => "nothing yet",
    };
    let _ = writeln!(
        text,
        "\n{}; this host may be {verdict}.",
        match plan.steps.len() {
            0 => "Nothing to do".to_owned(),
            1 => "1 step to do".to_owned(),
            steps => format!("{steps} steps to do"),
        }
    );
    text
}

/// What became of the steps, one a line.
#[must_use]
pub fn render_reports(reports: &[StepReport]) -> String {
    let mut text = String::new();
    for report in reports {
        let _ = match &report.outcome {
            Outcome::Done => writeln!(text, "done       {}", report.what),
            Outcome::AlreadySo => writeln!(text, "already so {}", report.what),
            Outcome::ChangedByOthers(cause) => writeln!(text, "left alone {}: {cause}", report.what),
            Outcome::Failed(cause) => {
                writeln!(text, "failed     {} ({}): {cause}", report.what, level(report.level))
            }
        };
    }
    text
}

pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
    text
}

/// The table of `docs/host.md`, made from [`ROWS`].
#[must_use]
pub fn document_table() -> String {
    let mut text = String::from(
        "| row | level | whose need | for | why | probed | changed by | undone by | while missing, no |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let need = match row.need {
            Need::K3s => "k3s",
            Need::K3sDoesIt => "k3s, which does it itself",
            Need::Kubelet => "kubelet, which does it itself",
            Need::Muster => "Muster",
            Need::Advice => "advice",
        };
        let applies = match row.applies {
            Applies::Every => "every node",
            Applies::Server => "servers",
        };
        let _ = writeln!(
            text,
            "| `{}` | {} | {need} | {applies} | {} | {} | {} | {} | {} |",
            row.name,
            level(row.level),
            row.reason,
            row.probed(),
            row.changed(),
            row.undone(),
            blocks(row.blocks),
        );
    }
    text
}
