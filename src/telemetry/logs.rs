//! Logs: JSON lines for machines, one line of text for people, on standard error.
//!
//! The writer and the clock are handed in, so that a test captures everything and a simulated run prints
//! simulated time.

use std::fmt;

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    registry::Registry,
};

use crate::{
    clock::Clock,
    config::{LogFormat, Logging},
};

/// Logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("the log filter {filter:?} is not one: {reason}")]
    Filter { filter: String, reason: String },
    #[error("logs are set up already")]
    Installed,
}

/// A subscriber that writes to `writer`; the caller installs it, globally or for one scope.
pub fn subscriber<W>(logging: &Logging, clock: Clock, writer: W) -> Result<impl Subscriber + Send + Sync, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(&logging.level)
        .map_err(|error| LogError::Filter {
            filter: logging.level.clone(),
            reason: error.to_string(),
        })?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_timer(Time(clock))
        .with_ansi(false);
    let layer = match logging.format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(true).boxed(),
        LogFormat::Human => layer.boxed(),
    };
    Ok(Registry::default().with(filter).with(layer))
}

/// Installs the process's logs, on standard error.
pub fn init(logging: &Logging, clock: Clock) -> Result<(), LogError> {
    let subscriber = subscriber(logging, clock, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)
}

/// RFC 3339 by our own clock.
struct Time(Clock);

impl FormatTime for Time {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        write!(w, "{:.3}", self.0.now())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let logging = Logging {
            format,
            level: "info".to_owned(),
        };
        let clock = Clock::simulated("2026-11-23T08:00:00Z".parse().unwrap());
        let subscriber = subscriber(&logging, clock, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(set = "linux", "hello");
            tracing::debug!("not shown");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_carry_fields_and_the_time_of_our_clock() {
        let line = logged(LogFormat::Json);
        assert_eq!(line.lines().count(), 1, "{line}");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "hello");
        assert_eq!(value["set"], "linux");
        assert!(
            value["timestamp"].as_str().unwrap().starts_with("2026-11-23T08:00:00."),
            "{line}"
        );
    }

    #[test]
    fn human_lines_are_text() {
        let line = logged(LogFormat::Human);
        assert!(line.contains("INFO") && line.contains("hello set=\"linux\""), "{line}");
    }
}
