//! What a reproducible step sees of files beside their content: nothing that another machine would show otherwise.

use std::collections::HashMap;

use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorStat, DescriptorType, MetadataHashValue,
};

use crate::virtuality::EPOCH_SECONDS;

/// Files that are told apart by number; beyond them all are one, which no program gets to by honest means.
const MAX_NUMBERED: usize = 1_000_000;

/// The numbers of the files that a guest has asked about.
#[derive(Debug, Default)]
pub(super) struct Sameness {
    numbers: HashMap<(u64, u64), u64>,
    /// Numbers are not given twice, whatever is forgotten.
    last: u64,
}

impl Sameness {
    /// The same for every machine: the first file that is asked about is 1, the second 2.
    pub(super) fn number(&mut self, real: MetadataHashValue) -> MetadataHashValue {
        let key = (real.lower, real.upper);
        let lower = match self.numbers.get(&key) {
            Some(number) => *number,
            None if self.numbers.len() >= MAX_NUMBERED => 0,
            None => {
                self.last += 1;
                self.numbers.insert(key, self.last);
                self.last
            }
        };
        MetadataHashValue { lower, upper: 0 }
    }

    /// A file without a name has no number: its own may go to another file as soon as it is closed.
    pub(super) fn nameless() -> MetadataHashValue {
        MetadataHashValue { lower: 0, upper: 0 }
    }

    /// This file is gone. File systems differ in whether the next one gets its number, and here none does.
    pub(super) fn forget(&mut self, real: &MetadataHashValue) {
        self.numbers.remove(&(real.lower, real.upper));
    }
}

/// A file's metadata without what differs between machines.
pub(super) fn stat(real: DescriptorStat) -> DescriptorStat {
    let epoch = Some(Datetime {
        seconds: EPOCH_SECONDS,
        nanoseconds: 0,
    });
    let directory = real.type_ == DescriptorType::Directory;
    DescriptorStat {
        // File systems count a directory's links and bytes in their own ways.
        link_count: if directory { 1 } else { real.link_count },
        size: if directory { 0 } else { real.size },
        data_access_timestamp: epoch,
        data_modification_timestamp: epoch,
        status_change_timestamp: epoch,
        ..real
    }
}
