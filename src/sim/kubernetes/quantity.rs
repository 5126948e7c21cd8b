//! Amounts as Kubernetes writes them: `500m`, `2`, `1.5Gi`, `1e3`.

use std::{
    fmt,
    ops::{Add, AddAssign},
};

const NANOS: i128 = 1_000_000_000;
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

pub(super) const MALFORMED: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// An exact amount down to 10^-9, which remembers whether it was written in powers of two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quantity {
    nanos: i128,
    binary: bool,
}

impl Quantity {
    pub(super) fn count(n: usize) -> Self {
        Self {
            nanos: i128::try_from(n).unwrap_or(i128::MAX / NANOS) * NANOS,
            binary: false,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let end = text
            .char_indices()
            .find(|(i, c)| !(c.is_ascii_digit() || *c == '.' || (*i == 0 && "+-".contains(*c))))
            .map_or(text.len(), |(i, _)| i);
        let (number, suffix) = text.split_at(end);
        let (scale, binary) = scale(suffix)?;
        Some(Self {
            nanos: scaled(number, scale)?,
            binary,
        })
    }

    pub(super) fn max(self, other: Self) -> Self {
        if other.nanos > self.nanos { other } else { self }
    }

    pub(super) fn exceeds(self, limit: Self) -> bool {
        self.nanos > limit.nanos
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            binary: if self.nanos == 0 { other.binary } else { self.binary },
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What one unit of a suffix is worth, in 10^-9; whether it counts in powers of two.
fn scale(suffix: &str) -> Option<(i128, bool)> {
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((NANOS << (10 * (power + 1)), true));
    }
    let exponent = match DECIMAL.iter().find(|(s, _)| *s == suffix) {
        Some((_, exponent)) => *exponent,
        None => suffix.strip_prefix(['e', 'E'])?.parse().ok()?,
    };
    let exponent = u32::try_from(exponent + 9).ok().filter(|e| *e <= 27)?;
    Some((10_i128.pow(exponent), false))
}

/// A decimal number times `scale`; what is finer than the scale is rounded up, as Kubernetes does.
fn scaled(number: &str, scale: i128) -> Option<i128> {
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let parse = |text: &str| {
        if text.is_empty() {
            Some(0_i128)
        } else {
            text.parse().ok()
        }
    };
    let unit = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
    let mantissa = parse(whole)?.checked_mul(unit)?.checked_add(parse(fraction)?)?;
    let product = mantissa.checked_mul(scale)?;
    let value = product / unit + i128::from(product % unit != 0);
    Some(if negative { -value } else { value })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.binary && self.nanos % NANOS == 0 {
            let mut value = self.nanos / NANOS;
            let mut suffix = "";
            for next in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut suffix = DECIMAL[0].0;
        for (next, _) in &DECIMAL[1..] {
            if value % 1000 != 0 {
                break;
            }
            value /= 1000;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_print_as_kubernetes_prints_them() {
        for (text, printed) in [
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("2000", "2k"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1e3", "1k"),
            ("0", "0"),
            ("-1", "-1"),
            ("100Mi", "100Mi"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), printed, "{text}");
        }
        for text in ["lots", "", "1 Gi", "1.2.3", "Gi", "5x"] {
            assert_eq!(Quantity::parse(text), None, "{text}");
        }
        let sum = Quantity::parse("500m").unwrap() + Quantity::parse("1").unwrap();
        assert_eq!(sum.to_string(), "1500m");
        assert!(sum.exceeds(Quantity::parse("1.4").unwrap()));
    }
}
