//! What a person sees while a package is unpacked.

use cofferdam_sdk::Bytes;

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
        self.list(|| format!("{}  {}", name.as_str(), Bytes(size)));
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
            Bytes(summary.bytes),
            Bytes(summary.package_bytes),
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

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(2, "directory"), "2 directories");
    }
}
