//! How much memory an instance may have, and whether the present call was told no.

use wasmtime::ResourceLimiter;

/// What a table's element takes in this process.
const TABLE_ELEMENT_BYTES: usize = 8;

/// Counts the memories and tables of one instance together.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    bytes_max: usize,
    bytes: usize,
    /// What was granted last, should wasmtime then not be able to give it.
    granted: usize,
    refused: bool,
    starved: bool,
}

impl MemoryLimit {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            granted: 0,
            refused: false,
            starved: false,
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What an earlier call was told is forgotten: it has taken no for an answer.
    pub(super) fn begin_call(&mut self) {
        self.refused = false;
        self.starved = false;
    }

    /// Whether this call asked for more than it may have. What happens next in it (most allocators
    /// end the program) is for want of memory, whatever it looks like.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    /// Whether the system had less in this call than the instance may have: not the plugin's fault.
    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    fn grow(&mut self, current_bytes: usize, desired_bytes: usize) -> bool {
        let bytes = self
            .bytes
            .saturating_add(desired_bytes.saturating_sub(current_bytes));
        self.granted = 0;
        if bytes > self.bytes_max {
            self.refused = true;
            return false;
        }
        self.granted = bytes - self.bytes;
        self.bytes = bytes;
        true
    }

    /// What was granted could not be given, for want of memory in the system or because the memory
    /// or table is not meant to be so large.
    fn failed(&mut self, error: &wasmtime::Error) {
        // The types of these errors are private to wasmtime; a test holds their words.
        let words = error.to_string();
        if words.contains("exceeds memory type's limits") {
            // Refused before it was asked for here: what was granted last was given.
            self.refused = true;
            return;
        }
        self.bytes -= std::mem::take(&mut self.granted);
        match words.contains("maximum size exceeded") {
            true => self.refused = true,
            false => self.starved = true,
        }
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut limit = MemoryLimit::new(1000);
        assert!(limit.memory_growing(0, 400, None).unwrap());
        assert!(limit.memory_growing(400, 600, None).unwrap());
        assert!(limit.table_growing(0, 50, None).unwrap());
        assert!(!limit.refused());
        assert!(!limit.memory_growing(0, 1, None).unwrap());
        assert!(limit.refused());
    }

    #[test]
    fn a_growth_that_was_granted_and_not_given_takes_nothing() {
        let mut limit = MemoryLimit::new(1000);
        assert!(limit.memory_growing(0, 900, None).unwrap());
        limit
            .memory_grow_failed(wasmtime::format_err!("no"))
            .unwrap();
        limit
            .memory_grow_failed(wasmtime::format_err!("no"))
            .unwrap();
        assert!(limit.table_growing(0, 125, None).unwrap());
        assert!(limit.starved() && !limit.refused());
    }

    #[test]
    fn a_growth_that_no_memory_can_have_leaves_what_was_granted_before() {
        let mut limit = MemoryLimit::new(1000);
        assert!(limit.memory_growing(0, 900, None).unwrap());
        limit
            .memory_grow_failed(wasmtime::format_err!(
                "memory growth exceeds memory type's limits"
            ))
            .unwrap();
        assert!(limit.refused() && !limit.starved());
        assert!(!limit.memory_growing(900, 1001, None).unwrap());
    }

    #[test]
    fn a_call_that_took_no_for_an_answer_leaves_no_trace_in_the_next() {
        let mut limit = MemoryLimit::new(1000);
        assert!(!limit.memory_growing(0, 1001, None).unwrap());
        limit.begin_call();
        assert!(!limit.refused());
    }

    #[test]
    fn a_refused_growth_takes_nothing() {
        let mut limit = MemoryLimit::new(1000);
        assert!(!limit.memory_growing(0, usize::MAX, None).unwrap());
        assert!(limit.memory_growing(0, 1000, None).unwrap());
    }
}
