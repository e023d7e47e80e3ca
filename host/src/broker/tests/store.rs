//! The tests of `both`, over the store.

use super::*;

#[path = "both.rs"]
mod both;

fn ground() -> Ground {
    Ground::store()
}
