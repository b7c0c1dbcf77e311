//! What a person sees while a package is unpacked.

use crate::Summary;
use crate::name::Name;

/// So many entries are listed by name: a small package in full, and of a large one enough to recognise it.
const LISTED: u64 = 40;

/// Progress is told about this often: every crossing into the host costs as much as a small write.
const PROGRESS_BYTES: u64 = 4 * 1024 * 1024;

/// As above, for packages of many small files.
const PROGRESS_FILES: u64 = 500;

#[derive(Debug, Default)]
pub(crate) struct Watch {
    listed: u64,
    told_bytes: u64,
    told_files: u64,
}

impl Watch {
    pub(crate) fn directory(&mut self, name: &Name) {
        if !name.is_root() {
            self.list(|| format!("{}/", name.as_str()));
        }
    }

    pub(crate) fn link(&mut self, name: &Name, target: &str) {
        self.list(|| format!("{} -> {target}", name.as_str()));
    }

    pub(crate) fn file(&mut self, name: &Name, size: u64, files: u64, bytes: u64) {
        self.list(|| format!("{}  {}", name.as_str(), human(size)));
        if files >= self.told_files + PROGRESS_FILES {
            self.tell(files, bytes);
        }
    }

    pub(crate) fn bytes(&mut self, files: u64, bytes: u64) {
        if bytes >= self.told_bytes + PROGRESS_BYTES {
            self.tell(files, bytes);
        }
    }

    pub(crate) fn finish(&mut self, summary: &Summary) {
        self.tell(summary.files, summary.bytes);
        let mut text = format!("unpacked {}", counted(summary.files, "file"));
        for (count, noun) in [(summary.directories, "directory"), (summary.links, "link")] {
            if count > 0 {
                text.push_str(", ");
                text.push_str(&counted(count, noun));
            }
        }
        println!(
            "{text}: {} from {} of {}",
            human(summary.bytes),
            human(summary.package_bytes),
            summary.format
        );
        if summary.files == 0 && summary.links == 0 {
            cofferdam_sdk::warning("the package holds no files");
        }
    }

    fn list(&mut self, line: impl FnOnce() -> String) {
        self.listed += 1;
        if self.listed <= LISTED {
            println!("{}", line());
        } else if self.listed == LISTED + 1 {
            println!("... and more, counted from here on");
        }
    }

    fn tell(&mut self, files: u64, bytes: u64) {
        self.told_bytes = bytes;
        self.told_files = files;
        cofferdam_sdk::progress(bytes, None, &format!("bytes, {}", counted(files, "file")));
    }
}

fn counted(count: u64, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {noun}s"),
    }
}

/// A number of bytes with its unit: `512 B`, `17.3 KiB`.
fn human(bytes: u64) -> String {
    let mut unit = "B";
    let mut scaled = u128::from(bytes) * 10;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 10 * 1024 {
            break;
        }
        scaled = (scaled + 512) / 1024;
        unit = next;
    }
    if unit == "B" {
        return format!("{bytes} B");
    }
    format!("{}.{} {unit}", scaled / 10, scaled % 10)
}

#[cfg(test)]
mod tests {
    use super::{counted, human};

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(300 * 1024 * 1024), "300.0 MiB");
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2, "directory"), "2 directories");
    }
}
