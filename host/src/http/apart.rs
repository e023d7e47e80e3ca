//! Keeps long work off the threads that serve sockets.

use eddy_protocol::ErrorCode;

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
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(ErrorCode::ShuttingDown
            .because("the broker is stopping")
            .into()),
    }
}
