//! The only place that writes to the terminal. A closed pipe is no error of ours: writes are best effort.

use std::{
    fmt::Write as _,
    io::{Write as _, stderr, stdout},
    path::Path,
};

use crate::config::Problem;

/// Text for standard output, as it is.
pub(super) fn text(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One failure and what mends it, on standard error.
pub(super) fn error(message: &str, remedy: &str) {
    to_stderr(&format!("error: {message}\n  help: {remedy}\n"));
}

/// Words beside an answer, on standard error.
pub(super) fn note(text: &str) {
    to_stderr(text);
}

/// Everything that is wrong with a file, on standard error.
pub(super) fn problems(path: &Path, problems: &[Problem]) {
    to_stderr(&problem_text(path, problems));
}

fn to_stderr(text: &str) {
    let mut err = stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

fn problem_text(path: &Path, problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let mut text = format!("error: {count} in {}\n", path.display());
    for problem in problems {
        let _ = write!(text, "\n  {}\n    {}\n", problem.path, problem.message);
        if !problem.remedy.is_empty() {
            let _ = writeln!(text, "    help: {}", problem.remedy);
        }
    }
    text
}

/// Columns as wide as their widest cell; the first row is the head.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_place_fault_and_remedy() {
        let problem = Problem {
            path: "scaleSets[0].name".to_owned(),
            message: "is required".to_owned(),
            remedy: "such as linux-large".to_owned(),
        };
        assert_eq!(
            problem_text(Path::new("config.yaml"), &[problem]),
            "error: 1 problem in config.yaml\n\n  scaleSets[0].name\n    is required\n    help: such as linux-large\n"
        );
    }
}
