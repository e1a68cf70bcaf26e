//! Output: sizes, times, columns, and no control characters that a terminal would obey.

use crate::{
    failure::{ERROR, Failure, Outcome},
    streams,
};
use std::{
    fmt::Write as _,
    io::{self, Write as _, stdout},
    time::{SystemTime, UNIX_EPOCH},
};

/// Control characters, and those that reorder or hide text.
fn unsafe_to_print(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` with everything escaped that a terminal would not simply show.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if unsafe_to_print(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// [`printable`], line by line.
pub(crate) fn printable_lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(line) => printable(line) + "\n",
            None => printable(line),
        })
        .collect()
}

/// Bytes in the largest unit of 1024 that leaves at least 1: exact where that is whole, else with one decimal.
pub(crate) fn bytes(n: u64) -> String {
    let unit = (63 - (n | 1).leading_zeros()) / 10;
    if unit == 0 {
        return n.to_string();
    }
    let letter = ["", "K", "M", "G", "T", "P", "E"][unit as usize];
    let one = 1u64 << (10 * unit);
    if n.is_multiple_of(one) { format!("{}{letter}", n / one) } else { format!("{:.1}{letter}", n as f64 / one as f64) }
}

/// A moment as RFC 3339 has it, in UTC, to the second.
pub(crate) fn moment(t: SystemTime) -> String {
    let seconds = t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years: leap days then come last in their year.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let m = (5 * day + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let day = day - (153 * m + 2) / 5 + 1;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

/// Rows with their columns in line; those whose heading starts with a space go to the right.
pub(crate) fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |text: &str| text.chars().count();
    let wide = |i: usize| rows.iter().map(|r| width(&r[i])).chain([width(headings[i].trim())]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..headings.len()).map(wide).collect();
    let mut out = String::new();
    let heading: Vec<String> = headings.iter().map(|h| h.trim().to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[i] - width(cell));
            let (before, after) = if headings[i].starts_with(' ') { (pad.as_str(), "") } else { ("", pad.as_str()) };
            let gap = if i > 0 { "  " } else { "" };
            let _ = write!(line, "{gap}{before}{cell}{after}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Writes to standard output. A reader that went away ends the command quietly.
pub(crate) fn emit(text: &str) -> Outcome {
    require_output()?;
    let mut out = stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| output_failed(&e))
}

/// Fails where there is no standard output.
pub(crate) fn require_output() -> Outcome {
    if streams::has_output() { Ok(()) } else { Err(Failure::new("standard output is closed")) }
}

/// A value as indented JSON on standard output.
pub(crate) fn emit_json(value: &serde_json::Value) -> Outcome {
    emit(&format!("{value:#}\n"))
}

pub(crate) fn output_failed(e: &io::Error) -> Failure {
    if e.kind() == io::ErrorKind::BrokenPipe { Failure::silent(ERROR) } else { Failure::host("standard output", e) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(printable("a\u{1b}[31mb\r\n\u{202e}\u{9b}é"), "a\\u{1b}[31mb\\r\\n\\u{202e}\\u{9b}é");
        assert_eq!(printable_lines("a\u{7}\nb\n"), "a\\u{7}\nb\n");
    }

    #[test]
    fn sizes() {
        let cases = [(0, "0"), (512, "512"), (1023, "1023"), (1024, "1K"), (1536, "1.5K"), (10 << 30, "10G")];
        for (n, text) in cases.into_iter().chain([((3 << 40) + (1 << 39), "3.5T"), (u64::MAX, "16.0E")]) {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn moments() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(moment(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn lines_up() {
        let rows = [vec!["a".to_owned(), "10".to_owned()], vec!["bcd".to_owned(), "7".to_owned()]];
        assert_eq!(columns(&["N", " SIZE"], &rows), "N    SIZE\na      10\nbcd     7\n");
    }
}
