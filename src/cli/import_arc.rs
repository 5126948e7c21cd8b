//! `import-arc`: what ran under the established controller, as a file of ours. What has no counterpart is listed with
//! the reason; nothing is dropped in silence.

mod reasons;
mod translate;

use std::{fmt::Write as _, io::Read as _, path::PathBuf};

use clap::Args;
use serde_json::Value;

use self::translate::Imported;
use super::{Exit, output};

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// Values of its charts, or AutoscalingRunnerSets as `kubectl get autoscalingrunnersets -o yaml` prints them; `-` for
    /// standard input. Several files become one.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Namespace of the runners, where the files do not tell.
    #[arg(long, default_value = "runners")]
    namespace: String,
}

pub(super) fn run(args: &ImportArgs) -> Exit {
    let mut documents = Vec::new();
    for file in &args.files {
        match read(file) {
            Ok(found) => documents.extend(found),
            Err(error) => {
                output::error(
                    &error,
                    "name YAML files: values of the charts, or AutoscalingRunnerSets",
                );
                return Exit::Usage;
            }
        }
    }
    match translate::import(documents, &args.namespace).and_then(|imported| Ok((yaml(&imported)?, imported))) {
        Ok((text, imported)) => {
            output::text(&text);
            output::note(&report(&imported));
            Exit::Well
        }
        Err(error) => {
            output::error(&error, "see docs/migrating-from-arc.md for what can be imported");
            Exit::Usage
        }
    }
}

fn read(file: &PathBuf) -> Result<Vec<Value>, String> {
    let mut text = String::new();
    if file.as_os_str() == "-" {
        let mut input = std::io::stdin();
        input
            .read_to_string(&mut text)
            .map_err(|error| format!("standard input: {error}"))?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    documents(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn documents(text: &str) -> Result<Vec<Value>, String> {
    use serde::Deserialize as _;
    let mut all = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let yaml = serde_yaml_ng::Value::deserialize(document).map_err(|error| error.to_string())?;
        match serde_json::to_value(yaml).map_err(|error| error.to_string())? {
            Value::Null => {}
            value => all.push(value),
        }
    }
    Ok(all)
}

fn yaml(imported: &Imported) -> Result<String, String> {
    serde_yaml_ng::to_string(&imported.file).map_err(|error| error.to_string())
}

/// For people: what is left to do, and what was not carried over.
fn report(imported: &Imported) -> String {
    let mut text = String::new();
    for (head, list) in [("to do", &imported.to_do), ("not carried over", &imported.dropped)] {
        if !list.is_empty() {
            let _ = writeln!(text, "{head}:");
        }
        for (path, reason) in list {
            let _ = writeln!(text, "  {path}\n    {reason}");
        }
    }
    text + "try the file with `gharts-listener check -c FILE` before it runs\n"
}

#[cfg(test)]
mod tests;
