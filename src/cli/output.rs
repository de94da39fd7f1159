//! What people and scripts read: tables, lists of facts, JSON.

use std::io::{self, Write};

use serde::Serialize;

use super::error::{CliError, Result};

/// Prints bytes as they are. A reader that has gone away is told by its own error.
pub fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => CliError::NoReader,
        _ => CliError::Io { what: "cannot write to standard output".to_owned(), source },
    })
}

/// Prints a text and a newline.
pub fn line(text: &str) -> Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// A text for people without what a terminal obeys: names in headers, descriptors and answers are anybody's to write.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Something that a person should know and that is no error.
pub fn warn(text: &str) {
    // Where nobody reads errors, there is nobody to tell.
    let _ = writeln!(io::stderr(), "kmsfs: warning: {}", plain(text));
}

/// An error, with which the program ends.
pub fn error(error: &CliError) {
    let _ = writeln!(io::stderr(), "kmsfs: {}", plain(&error.to_string()));
}

/// Asks a person at the terminal; what was typed, without blanks around it.
pub fn ask(question: &str) -> Result<String> {
    let failed = |source| CliError::Io { what: "cannot ask on the terminal".to_owned(), source };
    let mut err = io::stderr().lock();
    err.write_all(question.as_bytes()).and_then(|()| err.flush()).map_err(failed)?;
    let mut typed = String::new();
    io::stdin().read_line(&mut typed).map_err(failed)?;
    Ok(typed.trim().to_owned())
}

/// Prints a value in its serialised shape, for scripts.
pub fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| CliError::Failed(e.to_string()))?;
    line(&text)
}

/// Rows under headings, in columns as wide as they need.
pub fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> Result<()> {
    let headings = headings.map(str::to_owned);
    let mut width = [0; N];
    for row in rows.iter().chain([&headings]) {
        for (width, cell) in width.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in [&headings].into_iter().chain(rows) {
        let cells = row.iter().zip(width).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    bytes(plain(&text).as_bytes())
}

/// Facts under their names, one in a line.
pub fn facts(facts: &[(&str, String)]) -> Result<()> {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = facts.iter().map(|(name, value)| format!("{name:width$}  {value}\n"));
    bytes(plain(&lines.collect::<String>()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(plain("arn:\u{1b}[2J\u{9b}x\r\u{7}"), "arn:\u{fffd}[2J\u{fffd}x\u{fffd}\u{fffd}");
        assert_eq!(plain("a\tb\nü"), "a\tb\nü");
    }
}
