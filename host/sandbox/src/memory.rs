//! The memory a guest may hold.

use wasmtime::ResourceLimiter;

/// Core instances of one component: an adapted Python has about twenty.
const MAX_INSTANCES: usize = 256;

/// Tables of one component.
pub(crate) const MAX_TABLES: u32 = 64;

/// Memories of one component.
pub(crate) const MAX_MEMORIES: u32 = 16;

/// Counts all memories and all tables of a store together: the engine's own limits are for each of them.
#[derive(Debug)]
pub(crate) struct MemoryLimiter {
    memory_limit: u64,
    memory: u64,
    peak: u64,
    /// What the growth that the engine is just trying added, taken back when it fails.
    growing: u64,
    table_limit: u64,
    table: u64,
    table_growing: u64,
    refused: bool,
}

impl MemoryLimiter {
    pub(crate) fn new(memory_limit: u64, table_limit: u64) -> Self {
        Self {
            memory_limit,
            memory: 0,
            peak: 0,
            growing: 0,
            table_limit,
            table: 0,
            table_growing: 0,
            refused: false,
        }
    }

    /// Whether the guest ever asked for more memory than it was granted.
    pub(crate) fn refused(&self) -> bool {
        self.refused
    }

    pub(crate) fn peak(&self) -> u64 {
        self.peak
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // A failure reported after a refusal must not take back an earlier success.
        self.growing = 0;
        let more = desired.saturating_sub(current) as u64;
        let total = self.memory.saturating_add(more);
        if total > self.memory_limit {
            self.refused = true;
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.memory = total;
        self.growing = more;
        self.peak = self.peak.max(total);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(
            error = format!("{error:#}"),
            "a guest's memory could not grow"
        );
        self.memory = self
            .memory
            .saturating_sub(std::mem::take(&mut self.growing));
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.table_growing = 0;
        let more = desired.saturating_sub(current) as u64;
        let total = self.table.saturating_add(more);
        if total > self.table_limit || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.table = total;
        self.table_growing = more;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(
            error = format!("{error:#}"),
            "a guest's table could not grow"
        );
        self.table = self
            .table
            .saturating_sub(std::mem::take(&mut self.table_growing));
        Ok(())
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_limit_is_for_all_memories_together() {
        let mut limiter = MemoryLimiter::new(100, 10);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.refused());
        assert!(!limiter.memory_growing(40, 41, None).unwrap());
        assert!(limiter.refused());
        assert_eq!(limiter.peak(), 100);
    }

    #[test]
    fn memory_that_could_not_grow_is_given_back() {
        let mut limiter = MemoryLimiter::new(100, 10);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        limiter
            .memory_grow_failed(wasmtime::Error::msg("no"))
            .unwrap();
        assert!(limiter.memory_growing(0, 100, None).unwrap());
    }
}
