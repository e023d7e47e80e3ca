//! Keeps long work off the threads that serve sockets, and work that must come
//! to its end off the life of a connection.

use eddy_protocol::ErrorCode;
use tokio::task::JoinError;

use super::error::Failure;

/// Below this many bytes a detour costs more than it saves.
const SMALL_BYTES: usize = 128 << 10;

/// Does `work` on `bytes` bytes here, or on a thread that may take its time.
pub(super) async fn apart<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    if bytes <= SMALL_BYTES {
        return work();
    }
    blocking(work).await
}

/// Does `work`, which may wait for the disk, on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(stopping(error)),
    }
}

/// The outcome of `work`, which goes on to its end if this is dropped before.
pub(super) async fn whole<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(work).await.map_err(stopping)
}

/// Why a task has no outcome: the runtime ends. A panic goes on as one.
fn stopping(error: JoinError) -> Failure {
    if error.is_panic() {
        std::panic::resume_unwind(error.into_panic());
    }
    ErrorCode::ShuttingDown
        .because("the broker is stopping")
        .into()
}
