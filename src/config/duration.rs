//! Durations as people write them: `1h`, `90s`, `1h30m`, `500ms`, or whole seconds (`3600`).

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What the schema accepts as text.
const PATTERN: &str = "^([0-9]{1,9}(ms|s|m|h))+$";

/// A duration of the file. Serialises back to the shortest text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DurationText(pub(super) Duration);

impl From<Duration> for DurationText {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

/// Reads `1h30m`; digits alone are seconds.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let part = match unit {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds % 3600 / 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_millis()), "ms"),
        ];
        if parts.iter().all(|(count, _)| *count == 0) {
            return f.write_str("0s");
        }
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{count}{unit}")?;
        }
        Ok(())
    }
}

impl Serialize for DurationText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DurationText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = DurationText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 1h or 90s, or whole seconds")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<DurationText, E> {
                Ok(DurationText(Duration::from_secs(seconds)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationText, E> {
                parse(text)
                    .map(DurationText)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "pattern": PATTERN,
            "minimum": 0,
            "maximum": 31_536_000,
            "examples": ["1h", "90s", 3600],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written_and_print_shortest() {
        for (text, seconds, printed) in [
            ("1h", 3600, "1h"),
            ("90s", 90, "1m30s"),
            ("1h30m", 5400, "1h30m"),
            ("3600", 3600, "1h"),
            ("0", 0, "0s"),
        ] {
            let parsed = parse(text).unwrap();
            assert_eq!(parsed, Duration::from_secs(seconds), "{text}");
            assert_eq!(DurationText(parsed).to_string(), printed);
        }
        assert_eq!(parse("500ms"), Some(Duration::from_millis(500)));
        for bad in ["", "1d", "h", "1h ", "-1s", "1.5h", "99999999999999999999s"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
