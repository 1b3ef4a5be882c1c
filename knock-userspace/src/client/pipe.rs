//! Standard input and output, joined with a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// Copies standard input to `stream` and `stream` to standard output, until the other side
/// has said all. What comes in after that has nowhere to go.
///
/// # Errors
///
/// If the connection breaks, or standard output does.
pub fn pipe(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let to_host = stream.try_clone()?;
    // Nobody waits for it: it ends with this process if standard input stays open.
    thread::spawn(move || {
        let _ = copy(io::stdin().lock(), &to_host);
        let _ = to_host.shutdown(Shutdown::Write);
    });
    copy(stream, io::stdout().lock())
}

/// Hands on what comes as it comes, without waiting for a buffer to fill.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
