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
}

impl MemoryLimit {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            granted: 0,
            refused: false,
        }
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What an earlier call was told is forgotten: it has taken no for an answer.
    pub(super) fn begin_call(&mut self) {
        self.refused = false;
    }

    /// Whether this call asked for more than it may have. What happens next in it (most allocators
    /// end the program) is for want of memory, whatever it looks like.
    pub(super) fn refused(&self) -> bool {
        self.refused
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

    /// What was granted could not be given.
    fn failed(&mut self) {
        self.bytes -= std::mem::take(&mut self.granted);
        self.refused = true;
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

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
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

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed();
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
