//! The pipe between standard input and output and a connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

/// The side of the pipe that broke.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    /// The connection to the host.
    #[error("the connection broke: {0}")]
    Connection(io::Error),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Copies standard input to `stream` and `stream` to standard output, until the host closes its
/// side. Standard input is not read to its end then.
///
/// # Errors
///
/// If the connection breaks, or standard output does.
pub fn pipe(stream: &TcpStream) -> Result<(), PipeError> {
    stream.set_nodelay(true).map_err(PipeError::Connection)?;
    let to_host = stream.try_clone().map_err(PipeError::Connection)?;
    // The thread is not joined: it ends with this process if standard input stays open.
    thread::spawn(move || {
        let _ = copy(io::stdin().lock(), &to_host);
        let _ = to_host.shutdown(Shutdown::Write);
    });
    copy(stream, io::stdout().lock()).map_err(|broken| match broken {
        Broken::From(error) => PipeError::Connection(error),
        Broken::To(error) => PipeError::Output(error),
    })
}

enum Broken {
    From(io::Error),
    To(io::Error),
}

/// Copies data as it comes, without waiting for a full buffer.
fn copy(mut from: impl Read, mut to: impl Write) -> Result<(), Broken> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let written = to.write_all(&buffer[..length]).and_then(|()| to.flush());
                written.map_err(Broken::To)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::From(error)),
        }
    }
}
