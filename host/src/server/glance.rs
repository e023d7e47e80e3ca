//! What a peer asks for, told by the first bytes of its request, which stay to
//! be read: for those who answer without serving.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

/// What is looked at of a request.
const GLANCE_BYTES: usize = 16;
/// How often a request of which only a few bytes have come is looked at again.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) enum Asked {
    Health,
    Ready,
    Other,
}

/// What a peer asks for; nothing if it has left.
pub(super) async fn glance(stream: &TcpStream) -> Option<Asked> {
    let mut head = [0; GLANCE_BYTES];
    loop {
        let got = stream.peek(&mut head).await.ok().filter(|got| *got > 0)?;
        let head = &head[..got];
        let is = |line: &[u8]| head.starts_with(line);
        let may_be = |line: &[u8]| line.starts_with(head);
        let (health, ready) = (b"GET /health ", b"GET /ready ");
        match () {
            () if is(health) => return Some(Asked::Health),
            () if is(ready) => return Some(Asked::Ready),
            () if may_be(health) || may_be(ready) => sleep(PAUSE).await,
            () => return Some(Asked::Other),
        }
    }
}
