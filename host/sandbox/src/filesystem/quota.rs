//! How much a guest may write and create.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::io::Errno;

/// The bytes and files of one step. What is spent is never given back by removing or shortening, only when the
/// call it was reserved for failed: so no pattern of calls ever holds more than was granted.
#[derive(Debug)]
pub(crate) struct Quota {
    bytes_limit: u64,
    bytes: AtomicU64,
    files_limit: u64,
    files: AtomicU64,
    read: AtomicU64,
    opened: AtomicU64,
    refusal: OnceLock<String>,
    host_full: AtomicBool,
    /// What it shares with others who write to the same directory.
    shared: Option<Arc<Allowance>>,
}

/// What all who write to one directory may write together.
#[derive(Debug)]
pub(crate) struct Allowance {
    bytes_limit: u64,
    bytes: AtomicU64,
    files_limit: u64,
    files: AtomicU64,
}

impl Allowance {
    /// One of which nothing is left until it is known what the directory holds.
    pub(super) fn spent(bytes_limit: u64, files_limit: u64) -> Self {
        Self {
            bytes_limit,
            bytes: AtomicU64::new(bytes_limit),
            files_limit,
            files: AtomicU64::new(files_limit),
        }
    }

    /// Bytes and files that are charged.
    pub(super) fn holding(&self) -> (u64, u64) {
        (
            self.bytes.load(Ordering::Acquire),
            self.files.load(Ordering::Acquire),
        )
    }

    /// Whether an eighth or less is left.
    pub(super) fn is_nearly_spent(&self) -> bool {
        let (bytes, files) = self.holding();
        let nearly = |spent: u64, limit: u64| spent >= limit - limit / 8;
        nearly(bytes, self.bytes_limit) || nearly(files, self.files_limit)
    }

    /// Charges `now` in the place of `before`, and beside it what was charged since.
    pub(super) fn replace(&self, before: (u64, u64), now: (u64, u64)) {
        let put = |counter: &AtomicU64, before: u64, now: u64| {
            let _ = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent| {
                Some(now.saturating_add(spent.saturating_sub(before)))
            });
        };
        put(&self.bytes, before.0, now.0);
        put(&self.files, before.1, now.1);
    }
}

/// The quota is spent.
#[derive(Debug)]
pub(crate) struct Exceeded;

impl From<Exceeded> for io::Error {
    fn from(_: Exceeded) -> Self {
        Errno::NOSPC.into()
    }
}

impl Quota {
    pub(crate) fn new(bytes_limit: u64, files_limit: u64) -> Self {
        Self {
            bytes_limit,
            bytes: AtomicU64::new(0),
            files_limit,
            files: AtomicU64::new(0),
            read: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            refusal: OnceLock::new(),
            host_full: AtomicBool::new(false),
            shared: None,
        }
    }

    /// One that others have a share in, too.
    pub(super) fn within(bytes_limit: u64, files_limit: u64, shared: Arc<Allowance>) -> Self {
        Self {
            shared: Some(shared),
            ..Self::new(bytes_limit, files_limit)
        }
    }

    pub(crate) fn take_bytes(&self, bytes: u64) -> Result<(), Exceeded> {
        take(&self.bytes, self.bytes_limit, bytes).map_err(|Exceeded| {
            self.refuse(format!(
                "wrote more than its {} bytes (sparse sizes count)",
                self.bytes_limit
            ))
        })?;
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        take(&shared.bytes, shared.bytes_limit, bytes).map_err(|Exceeded| {
            give_back(&self.bytes, bytes);
            self.refuse(format!(
                "the directory holds its {} bytes (sparse sizes count)",
                shared.bytes_limit
            ))
        })
    }

    pub(crate) fn return_bytes(&self, bytes: u64) {
        give_back(&self.bytes, bytes);
        if let Some(shared) = &self.shared {
            give_back(&shared.bytes, bytes);
        }
    }

    pub(crate) fn take_file(&self) -> Result<(), Exceeded> {
        take(&self.files, self.files_limit, 1).map_err(|Exceeded| {
            self.refuse(format!("created more than its {} files", self.files_limit))
        })?;
        let Some(shared) = &self.shared else {
            return Ok(());
        };
        take(&shared.files, shared.files_limit, 1).map_err(|Exceeded| {
            give_back(&self.files, 1);
            self.refuse(format!(
                "the directory holds its {} files",
                shared.files_limit
            ))
        })
    }

    /// Whether another file would be granted.
    pub(crate) fn has_file(&self) -> bool {
        self.files() < self.files_limit
    }

    pub(crate) fn return_file(&self) {
        give_back(&self.files, 1);
        if let Some(shared) = &self.shared {
            give_back(&shared.files, 1);
        }
    }

    /// Notes bytes that the guest has read from files.
    pub(crate) fn note_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Notes that the guest has opened a file or a directory.
    pub(crate) fn note_opened(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
    }

    /// Bytes read from files.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Acquire)
    }

    /// Files and directories opened.
    pub(crate) fn files_opened(&self) -> u64 {
        self.opened.load(Ordering::Acquire)
    }

    /// Notes that the host's own disk is full.
    pub(crate) fn note(&self, error: &io::Error) {
        if Errno::from_io_error(error) == Some(Errno::NOSPC) {
            self.host_full.store(true, Ordering::Release);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub(crate) fn files(&self) -> u64 {
        self.files.load(Ordering::Acquire)
    }

    /// What was refused first, when anything was.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.refusal.get().map(String::as_str)
    }

    pub(crate) fn host_full(&self) -> bool {
        self.host_full.load(Ordering::Acquire)
    }

    fn refuse(&self, message: String) -> Exceeded {
        let _ = self.refusal.set(message);
        Exceeded
    }
}

/// A directory may have been measured since it was charged: then there is less to give back than was taken.
fn give_back(counter: &AtomicU64, amount: u64) {
    let _ = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent| {
        Some(spent.saturating_sub(amount))
    });
}

fn take(counter: &AtomicU64, limit: u64, amount: u64) -> Result<(), Exceeded> {
    counter
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |spent| {
            spent.checked_add(amount).filter(|&spent| spent <= limit)
        })
        .map(drop)
        .map_err(|_| Exceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_whole_and_remembered() {
        let quota = Quota::new(10, 1);
        assert!(quota.take_bytes(10).is_ok());
        assert!(quota.refusal().is_none());
        assert!(quota.take_bytes(1).is_err());
        assert!(quota.take_bytes(u64::MAX).is_err());
        assert_eq!(quota.bytes(), 10);
        assert!(
            quota
                .refusal()
                .is_some_and(|message| message.contains("10 bytes"))
        );
        assert!(quota.take_file().is_ok());
        assert!(quota.take_file().is_err());
        quota.return_file();
        assert!(quota.take_file().is_ok());
    }
}
