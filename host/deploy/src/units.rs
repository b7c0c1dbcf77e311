//! Sizes and durations as people write them: `256MiB`, `60s`.

use serde::de::{Deserialize, Deserializer, Error as _};

/// What a size may end with, in bytes.
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What a duration may end with, in milliseconds.
const DURATIONS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Bytes, written as text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

/// Milliseconds, written as text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milliseconds(pub u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        parse(text, &SIZES).map(Size).ok_or_else(|| {
            format!("{text:?} is no size: write a whole number and a unit, like \"256MiB\" (B, kB, MB, GB, KiB, MiB, GiB, TiB)")
        })
    }
}

impl std::str::FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Milliseconds, String> {
        parse(text, &DURATIONS).map(Milliseconds).ok_or_else(|| {
            format!("{text:?} is no duration: write a whole number and a unit, like \"60s\" (ms, s, m, h)")
        })
    }
}

/// `digits unit`, with or without a space between.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Milliseconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Milliseconds, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_whole_numbers_with_a_unit() {
        assert_eq!("256MiB".parse(), Ok(Size(256 << 20)));
        assert_eq!("1 GB".parse(), Ok(Size(1_000_000_000)));
        assert_eq!("0B".parse(), Ok(Size(0)));
        assert_eq!("60s".parse(), Ok(Milliseconds(60_000)));
        assert_eq!("250ms".parse(), Ok(Milliseconds(250)));
        assert_eq!("2h".parse(), Ok(Milliseconds(7_200_000)));
    }

    #[test]
    fn a_size_without_a_unit_or_past_any_machine_is_refused() {
        for bad in [
            "256",
            "MiB",
            "1.5GiB",
            "-1MiB",
            "1mib",
            "99999999999TiB",
            "",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["60", "1d", "1m30s", "s"] {
            let why = bad.parse::<Milliseconds>().unwrap_err();
            assert!(why.contains("like \"60s\""), "{why}");
        }
    }
}
