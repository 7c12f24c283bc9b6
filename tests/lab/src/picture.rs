//! The formation as a picture: the same lines that a terminal showed, as an SVG with a dark background.

use std::fmt::Write as _;

use crate::progress::{self, Event};

const CHAR: f64 = 8.4;
const LINE: usize = 20;
const LEFT: usize = 20;
const TOP: usize = 52;

/// The events of a formation, and the table it ended with, as an SVG.
#[must_use]
pub fn svg(command: &str, events: &[Event], table: &str) -> String {
    let mut lines: Vec<(String, &str)> = vec![(format!("$ {command}"), "#e6edf3")];
    lines.extend(events.iter().map(|event| (progress::line(event), colour(event))));
    lines.push((String::new(), ""));
    lines.extend(
        table
            .lines()
            .enumerate()
            .map(|(n, line)| (line.to_owned(), if n == 0 { "#8b949e" } else { "#e6edf3" })),
    );
    let longest = lines.iter().map(|(text, _)| text.chars().count()).max().unwrap_or_default().max(60);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred columns")]
    let width = (longest as f64 * CHAR) + 2.0 * LEFT as f64;
    let height = TOP + lines.len() * LINE + LEFT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height}\" \
         viewBox=\"0 0 {width:.0} {height}\" role=\"img\" aria-label=\"A cluster forms\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n\
         <circle cx=\"22\" cy=\"20\" r=\"6\" fill=\"#ff5f56\"/><circle cx=\"42\" cy=\"20\" r=\"6\" fill=\"#ffbd2e\"/>\
         <circle cx=\"62\" cy=\"20\" r=\"6\" fill=\"#27c93f\"/>\n\
         <g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" \
         font-size=\"14\" xml:space=\"preserve\" style=\"white-space:pre\">\n"
    );
    for (n, (text, colour)) in lines.iter().enumerate() {
        if !text.is_empty() {
            let y = TOP + n * LINE;
            let text = escaped(text);
            writeln!(out, "<text x=\"{LEFT}\" y=\"{y}\" fill=\"{colour}\">{text}</text>").unwrap_or_default();
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

fn colour(event: &Event) -> &'static str {
    match event.phase.as_str() {
        "" => "#ffffff",
        "serving" => "#3fb950",
        "founding" => "#e3b341",
        "joining" => "#79c0ff",
        "degraded" | "parked" | "off" => "#ff7b72",
        _ => "#adbac7",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_every_line_has_its_place() {
        let event = Event { at: 1.0, node: "node1".into(), phase: "serving".into(), text: "a<b & c".into() };
        let picture = svg("cargo lab up", &[event], "NODE\nnode1\n");
        assert!(picture.contains(
            "<text x=\"20\" y=\"72\" fill=\"#3fb950\">   1.0s  node1   serving    a&lt;b &amp; c</text>"
        ));
        assert!(picture.contains("<text x=\"20\" y=\"132\" fill=\"#e6edf3\">node1</text>"));
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    }
}
