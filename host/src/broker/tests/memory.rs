//! The tests of `both`, over the engine in memory.

use super::*;

#[path = "both.rs"]
#[expect(clippy::duplicate_mod, reason = "the same tests over another engine")]
mod both;

fn ground() -> Ground {
    Ground::memory().0
}
