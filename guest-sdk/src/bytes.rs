//! Numbers of bytes for people.

use std::fmt;

/// A number of bytes that displays itself with a unit: `512 B`, `17.3 KiB`.
///
/// ```
/// assert_eq!(cofferdam_sdk::Bytes(1536).to_string(), "1.5 KiB");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tenths = u128::from(self.0) * 10;
        let mut unit = None;
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if tenths < 10 * 1024 {
                break;
            }
            tenths = (tenths + 512) / 1024;
            unit = Some(larger);
        }
        match unit {
            None => write!(f, "{} B", self.0),
            Some(unit) => write!(f, "{}.{} {unit}", tenths / 10, tenths % 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bytes;

    #[test]
    fn byte_counts_read_as_people_write_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (300 << 20, "300.0 MiB"),
            (5 << 40, "5.0 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
