//! The side of the command line.

use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::Problem;

/// The longest answer that is read, in bytes: room for a few hundred thousand grants.
const LONGEST: usize = 256 << 20;

/// A connection to a running agent.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    connection: UnixStream,
}

/// A request that was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The agent refused it, or failed.
    #[error("{0}")]
    Refused(String),
    /// The socket exists but cannot be used.
    #[error("cannot speak to the agent at {path}: {what}")]
    Broken {
        /// Path of the socket.
        path: String,
        /// What went wrong.
        what: String,
    },
}

impl Client {
    /// Connects to the agent that listens at `path`. Returns `None` if no agent does.
    ///
    /// # Errors
    ///
    /// If the socket exists but this user has no access to it.
    pub async fn connect(path: &Path) -> Result<Option<Self>, ClientError> {
        match UnixStream::connect(path).await {
            Ok(connection) => Ok(Some(Self { path: path.to_owned(), connection })),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(broken(path)(error)),
        }
    }

    /// Sends a query.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn get<T: DeserializeOwned>(self, what: &str) -> Result<T, ClientError> {
        self.call(Method::GET, what, Vec::new()).await
    }

    /// Sends a request with a body.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn post<T: DeserializeOwned>(
        self,
        what: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(broken(&self.path))?;
        self.call(Method::POST, what, body).await
    }

    async fn call<T: DeserializeOwned>(
        self,
        method: Method,
        what: &str,
        body: Vec<u8>,
    ) -> Result<T, ClientError> {
        let Self { path, connection } = self;
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("/v1/{what}"))
            .header(header::HOST, "xknockd")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken(&path))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(connection)).await.map_err(broken(&path))?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broken(&path))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(broken(&path))?.to_bytes();
        connection.abort();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(broken(&path));
        }
        let problem: Problem = serde_json::from_slice(&body).map_err(broken(&path))?;
        Err(ClientError::Refused(problem.error))
    }
}

fn broken<E: ToString>(path: &Path) -> impl FnOnce(E) -> ClientError {
    let path = path.display().to_string();
    move |error| ClientError::Broken { path, what: error.to_string() }
}
