//! How much room there is, and how much of it is kept free.

use crate::Error;
use crate::store::Shared;

/// An upload looks again after this many bytes that it wrote: what all uploads that may run at once write in
/// between is little beside any sensible floor.
pub(crate) const LOOK_EVERY: u64 = 4 * 1024 * 1024;

impl Shared {
    /// Refuses when less is free than the floor. Blocks for a moment.
    pub(crate) fn check_room(&self) -> Result<(), Error> {
        let floor = self.options.free_floor_bytes;
        if floor == 0 {
            return Ok(());
        }
        let directory = self.packs_directory();
        let free = self
            .disk
            .free_bytes(directory)
            .map_err(|source| Error::io("measuring the room in", directory, source))?;
        if free < floor {
            return Err(Error::FloorReached {
                path: self.directory.clone(),
                free,
                floor,
            });
        }
        Ok(())
    }
}
