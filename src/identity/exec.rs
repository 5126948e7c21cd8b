//! A token that a command prints: for identities that only a tool of their own can get.
//!
//! The command is run without a shell, with the daemon's own environment and what the file adds, in a process
//! group of its own. It prints the token alone, or JSON: `{"token", "expiresAt"}` (or `expirationTimestamp`),
//! or what Kubernetes' exec plugins print (`status.token`, `status.expirationTimestamp`). Whatever it does, it
//! has a deadline, its output a bound, and its whole group ends with it when it is given up. What it prints on
//! standard error reaches a person when it fails, redacted; what it prints on standard output never does.

use std::{io, process::Stdio};

use futures::future::BoxFuture;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

use super::{Token, TokenError, TokenSource, claims};
use crate::{clock::Clock, config::ExecCommand, http::redact};

/// Far above any token with what surrounds it.
const OUTPUT_MAX: usize = 64 * 1024;
/// What is kept of standard error: its end, where tools say what went wrong.
const WORDS_MAX: usize = 4 * 1024;
/// How many of its last lines a message holds.
const LINES_MAX: usize = 3;

/// Runs a command for each token.
#[derive(Debug)]
pub struct TokenCommand {
    command: ExecCommand,
    clock: Clock,
}

/// Why the run gave nothing to look at.
enum Broken {
    Io(io::Error),
    TooLong,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What a run came to.
struct Ran {
    status: std::process::ExitStatus,
    output: String,
    words: String,
}

impl TokenCommand {
    pub fn new(command: ExecCommand, clock: Clock) -> Self {
        Self { command, clock }
    }

    async fn run(&self) -> Result<Token, TokenError> {
        let deadline = self.command.timeout;
        let mut child = self.start()?;
        let group = Group::of(&child);
        let ran = match tokio::time::timeout(deadline, watch(&mut child)).await {
            Ok(Ok(ran)) => ran,
            Ok(Err(Broken::TooLong)) => {
                return Err(self.refused(&format!(
                    "it prints more than {} KiB; it must print the token and nothing else",
                    OUTPUT_MAX / 1024
                )));
            }
            Ok(Err(Broken::Io(error))) => return Err(self.unavailable(&format!("its output cannot be read: {error}"))),
            Err(_) => {
                return Err(self.unavailable(&format!(
                    "it did not end within {} s and was killed with its children; raise gharts.oidc.exec.timeout if it \
                     needs longer",
                    deadline.as_secs_f64()
                )));
            }
        };
        group.has_ended();
        if !ran.status.success() {
            return Err(self.unavailable(&failure(&ran)));
        }
        let (secret, told) = read(&ran.output).map_err(|wrong| self.refused(&wrong))?;
        let (now, expires) = (self.clock.now(), told.or_else(|| claims::expiry(&secret)));
        if let Some(at) = expires.filter(|at| *at <= now) {
            return Err(self.unavailable(&format!(
                "its token expired at {at:.0}; it must print a fresh one each time it is run"
            )));
        }
        Ok(Token {
            secret: SecretString::from(secret),
            life: expires.map(|at| claims::left(now, at)),
        })
    }

    fn start(&self) -> Result<Child, TokenError> {
        let Some((program, arguments)) = self.command.command.split_first() else {
            return Err(self.refused("no command is given"));
        };
        Command::new(program)
            .args(arguments)
            .envs(&self.command.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| {
                self.refused(&format!(
                    "it cannot be run: {error}; is it installed here, and may this user run it?"
                ))
            })
    }
}

impl TokenSource for TokenCommand {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.run())
    }

    /// The program alone: an argument may be a secret.
    fn describe(&self) -> String {
        let program = self.command.command.first().map_or("", String::as_str);
        format!("the token command {program}")
    }
}

/// A command's process group: killed on the way out, unless the command has ended by itself.
struct Group(Option<Pid>);

impl Group {
    /// Its number is the command's own.
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The number may be somebody else's now.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error says that nobody is left of it: as good.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Until both outputs are closed and the command has ended.
async fn watch(child: &mut Child) -> Result<Ran, Broken> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let ended = async { child.wait().await.map_err(Broken::from) };
    let (output, words, status) = tokio::try_join!(all(stdout), end(stderr), ended)?;
    Ok(Ran { status, output, words })
}

/// Everything, up to the bound.
async fn all(from: Option<impl AsyncRead + Unpin>) -> Result<String, Broken> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        let bound = u64::try_from(OUTPUT_MAX).unwrap_or(u64::MAX);
        from.take(bound + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() > OUTPUT_MAX {
        return Err(Broken::TooLong);
    }
    // No token holds what this replaces.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of it, from the beginning of a line on.
async fn end(from: Option<impl AsyncRead + Unpin>) -> Result<String, Broken> {
    let mut kept = Vec::new();
    let mut cut = false;
    if let Some(mut from) = from {
        let mut piece = [0; 1024];
        loop {
            let read = from.read(&mut piece).await?;
            if read == 0 {
                break;
            }
            kept.extend_from_slice(&piece[..read]);
            let surplus = kept.len().saturating_sub(WORDS_MAX);
            cut |= surplus > 0;
            kept.drain(..surplus);
        }
    }
    let text = String::from_utf8_lossy(&kept).into_owned();
    // Half a line may be half a secret, which nothing would recognise.
    Ok(match text.split_once('\n') {
        Some((_, whole)) if cut => whole.to_owned(),
        None if cut => String::new(),
        _ => text,
    })
}

fn failure(ran: &Ran) -> String {
    let how = match ran.status.code() {
        Some(code) => format!("exit code {code}"),
        None => ran.status.to_string(),
    };
    let output = ran.output.trim();
    let words = if output.is_empty() {
        ran.words.clone()
    } else {
        ran.words.replace(output, "[redacted]")
    };
    let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES_MAX)..].join(" | ");
    match redact(&last).as_str() {
        "" => format!("{how}, and it says nothing on standard error; run it as this user to see why"),
        said => format!("{how}: {said}"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    #[serde(default)]
    token: Option<String>,
    #[serde(default, alias = "expirationTimestamp")]
    expires_at: Option<String>,
    #[serde(default)]
    status: Option<PrintedStatus>,
}

/// Of Kubernetes' `ExecCredential`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrintedStatus {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    expiration_timestamp: Option<String>,
}

/// The token and its end, where the command tells it. The error never quotes what was printed.
fn read(output: &str) -> Result<(String, Option<Timestamp>), String> {
    let text = output.trim();
    let (token, end) = if text.starts_with('{') {
        let printed: Printed = serde_json::from_str(text).map_err(|error| {
            format!(
                "it prints something that begins as JSON and is none that is known (line {}, column {})",
                error.line(),
                error.column()
            )
        })?;
        match (printed.token, printed.status) {
            (Some(token), _) => (token, printed.expires_at),
            (
                None,
                Some(PrintedStatus {
                    token: Some(token),
                    expiration_timestamp,
                }),
            ) => (token, expiration_timestamp),
            _ => return Err("it prints JSON without a token; `token` or `status.token` must hold it".to_owned()),
        }
    } else {
        (text.to_owned(), None)
    };
    if token.is_empty() {
        return Err("it prints nothing; it must print the token on standard output".to_owned());
    }
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("it prints more than a token; it must print the token alone, or JSON".to_owned());
    }
    let end = end.map(|text| {
        text.parse::<Timestamp>()
            .map_err(|_| "the expiry that it prints is no RFC 3339 time, such as 2026-01-01T00:00:00Z".to_owned())
    });
    Ok((token, end.transpose()?))
}

#[cfg(test)]
mod tests;
