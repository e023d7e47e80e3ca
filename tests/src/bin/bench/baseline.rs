//! What Eddy is measured against: plain files, plain sockets, a plain echo.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};

/// What a client hands to its socket at a time.
const SOCKET_WRITE_BYTES: usize = 256 << 10;

/// Another process of this program, in one of the roles of [`act`]. Ended on drop.
pub(crate) struct Role {
    child: Child,
    pub(crate) address: String,
}

impl Role {
    pub(crate) fn start(role: &str, arguments: &[String]) -> Result<Role> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(role)
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut out =
            std::io::BufReader::new(child.stdout.take().context("the role's output is piped")?);
        std::io::BufRead::read_line(&mut out, &mut line)?;
        Ok(Role {
            child,
            address: line.trim().to_owned(),
        })
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Plays a role in a process of its own, so that it competes for the
/// processors as the broker does.
pub(crate) fn act(role: &str, arguments: &[String]) -> Result<()> {
    match role {
        "as-echo" => echo(),
        "as-file" => {
            let [folder, bytes, write_bytes] = arguments else {
                bail!("folder, bytes, write_bytes")
            };
            receive_file(Path::new(folder), bytes.parse()?, write_bytes.parse()?)
        }
        "as-broadcaster" => {
            let [sockets, bytes, write_bytes] = arguments else {
                bail!("sockets, bytes, write_bytes")
            };
            broadcast(sockets.parse()?, bytes.parse()?, write_bytes.parse()?)
        }
        _ => bail!("no role `{role}`"),
    }
}

/// Writes `bytes` in writes of `write_bytes`, each synced; how long that takes.
pub(crate) fn write_file(folder: &Path, bytes: u64, write_bytes: usize) -> Result<Duration> {
    let path = folder.join("baseline");
    let block = vec![b'x'; write_bytes];
    let mut file = File::create(&path)?;
    let begun = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(write_bytes as u64) as usize;
        file.write_all(&block[..now])?;
        file.sync_data()?;
        left -= now as u64;
    }
    let took = begun.elapsed();
    std::fs::remove_file(&path)?;
    Ok(took)
}

/// The same without a sync, but the bytes come from this process and are
/// written by another one, which says when it has them all: one socket, and
/// nothing that a broker does beyond it.
pub(crate) fn send_file(folder: &Path, bytes: u64, write_bytes: usize) -> Result<Duration> {
    let arguments = [
        folder.display().to_string(),
        bytes.to_string(),
        write_bytes.to_string(),
    ];
    let role = Role::start("as-file", &arguments)?;
    let mut socket = TcpStream::connect(&role.address)?;
    let block = vec![b'x'; SOCKET_WRITE_BYTES];
    let begun = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let now = left.min(SOCKET_WRITE_BYTES as u64) as usize;
        socket.write_all(&block[..now])?;
        left -= now as u64;
    }
    socket.read_exact(&mut [0])?;
    Ok(begun.elapsed())
}

/// The other end of [`send_file`].
fn receive_file(folder: &Path, bytes: u64, write_bytes: usize) -> Result<()> {
    let path = folder.join("baseline");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let (mut socket, _) = listener.accept()?;
    let mut file = File::create(&path)?;
    let mut block = vec![0; write_bytes];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(write_bytes as u64) as usize;
        socket.read_exact(&mut block[..now])?;
        file.write_all(&block[..now])?;
        left -= now as u64;
    }
    socket.write_all(&[1])?;
    std::fs::remove_file(&path)?;
    Ok(())
}

/// Reads files through `cat` and a pipe; how long that takes.
pub(crate) fn cat(files: &[std::path::PathBuf]) -> Result<(u64, Duration)> {
    let begun = Instant::now();
    let mut child = Command::new("cat")
        .args(files)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut out = child.stdout.take().context("the output is piped")?;
    let (mut block, mut bytes) = (vec![0; 256 << 10], 0);
    loop {
        match out.read(&mut block)? {
            0 => break,
            read => bytes += read as u64,
        }
    }
    child.wait()?;
    Ok((bytes, begun.elapsed()))
}

/// Sends back every WebSocket message as it came.
#[tokio::main(flavor = "multi_thread")]
async fn echo() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let Ok(mut ws) = tokio_tungstenite::accept_async(socket).await else {
                return;
            };
            while let Some(Ok(message)) = ws.next().await {
                if message.is_binary() && ws.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Waits for `sockets` connections and a byte on the last, then writes the same
/// `bytes` to all of them, `write_bytes` at a time: a task per socket, as a broker has.
#[tokio::main(flavor = "multi_thread")]
async fn broadcast(sockets: usize, bytes: usize, write_bytes: usize) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let mut peers = Vec::new();
    for _ in 0..sockets {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        peers.push(socket);
    }
    if let Some(last) = peers.last_mut() {
        last.read_exact(&mut [0]).await?;
    }
    let block = std::sync::Arc::new(vec![b'x'; write_bytes]);
    let mut tasks = tokio::task::JoinSet::new();
    for mut peer in peers {
        let block = block.clone();
        tasks.spawn(async move {
            let mut left = bytes;
            while left > 0 {
                let now = left.min(block.len());
                if peer.write_all(&block[..now]).await.is_err() {
                    return;
                }
                left -= now;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// A port that is free now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
