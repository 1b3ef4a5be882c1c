//! The agent's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use knock_control::{Caller, Fault, Open, Problem, Reply, Request, Revoke, Try};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// The longest request that is read, in bytes.
const LONGEST: usize = 16 << 10;

/// A request on its way to the event loop.
#[derive(Debug)]
pub struct Call {
    /// The request.
    pub request: Request,
    /// Takes the answer to the client.
    pub answer: oneshot::Sender<Result<Reply, Problem>>,
}

/// The end of the queue of requests that the socket fills.
pub type Outbox = mpsc::Sender<Call>;
/// The end of the queue of requests that the event loop reads.
pub type Inbox = mpsc::Receiver<Call>;

/// The error of an agent that cannot take requests.
#[derive(Debug, thiserror::Error)]
#[error("cannot take requests at {path}: {source}")]
pub struct ServeError {
    path: String,
    source: io::Error,
}

/// The task that takes requests.
#[derive(Debug)]
pub struct Server {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Server {
    /// Takes no more requests, and waits until the answers under way have been sent.
    pub async fn end(self) {
        /// Longer than a client that reads needs. One that does not read is not waited for.
        const PATIENCE: Duration = Duration::from_secs(1);
        let Self { mut task, stop } = self;
        let _ = stop.send(());
        if tokio::time::timeout(PATIENCE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

/// Takes requests at `path`, which only the agent's user can reach, and hands them to `outbox`.
///
/// # Errors
///
/// If the socket cannot be made.
pub fn serve(path: &Path, outbox: Outbox) -> Result<Server, ServeError> {
    let fail = |source| ServeError { path: path.display().to_string(), source };
    // An agent that was killed has left its socket. This one holds the lock, so it may remove it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    // Other users cannot enter the folder, so none of them connects before the mode is set.
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    let router = router(outbox);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let stopped = async { _ = stopped.await };
        // It never fails: where accept(2) does, axum waits and tries again.
        let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
    });
    Ok(Server { task, stop })
}

fn router(outbox: Outbox) -> Router {
    Router::new()
        .route(
            "/v1/status",
            get(async |State(out): State<Outbox>| ask(&out, Request::Status).await),
        )
        .route("/v1/doors", get(async |State(out): State<Outbox>| ask(&out, Request::Doors).await))
        .route(
            "/v1/grants",
            get(async |State(out): State<Outbox>| ask(&out, Request::Grants).await),
        )
        .route(
            "/v1/open",
            post(async |State(out), body| ask_with::<Open>(out, body, Request::Open).await),
        )
        .route(
            "/v1/revoke",
            post(async |State(out), body| ask_with::<Revoke>(out, body, Request::Revoke).await),
        )
        .route(
            "/v1/reload",
            post(async |State(out), body| ask_with::<Caller>(out, body, Request::Reload).await),
        )
        .route(
            "/v1/try",
            post(async |State(out), body| ask_with::<Try>(out, body, Request::Try).await),
        )
        .route(
            "/v1/confirm",
            post(async |State(out), body| ask_with::<Caller>(out, body, Request::Confirm).await),
        )
        .route("/v1/off", post(async |State(out): State<Outbox>| ask(&out, Request::Off).await))
        .fallback(async || {
            let what = "there is no such request; docs/operations.md lists the requests";
            refusal(StatusCode::NOT_FOUND, &Problem::new(Fault::Request, what))
        })
        .method_not_allowed_fallback(async || {
            let what = "use GET for status, doors and grants, and POST for all other requests";
            refusal(StatusCode::METHOD_NOT_ALLOWED, &Problem::new(Fault::Request, what))
        })
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(outbox)
}

/// Hands on a request that has a body.
async fn ask_with<T>(
    outbox: Outbox,
    body: Result<Json<T>, JsonRejection>,
    request: fn(T) -> Request,
) -> Response {
    match body {
        Ok(Json(body)) => ask(&outbox, request(body)).await,
        Err(rejection) => {
            refusal(rejection.status(), &Problem::new(Fault::Request, rejection.body_text()))
        }
    }
}

async fn ask(outbox: &Outbox, request: Request) -> Response {
    let (answer, answered) = oneshot::channel();
    let gone = Problem::new(Fault::Agent, "the agent is stopping");
    let reply = match outbox.send(Call { request, answer }).await {
        Ok(()) => answered.await.unwrap_or(Err(gone)),
        Err(_) => Err(gone),
    };
    match reply {
        Ok(reply) => Json::<Reply>(reply).into_response(),
        Err(problem) => {
            let status = match problem.fault {
                Fault::Request => StatusCode::UNPROCESSABLE_ENTITY,
                Fault::LockOut => StatusCode::CONFLICT,
                Fault::Agent => StatusCode::INTERNAL_SERVER_ERROR,
            };
            refusal(status, &problem)
        }
    }
}

fn refusal(status: StatusCode, problem: &Problem) -> Response {
    (status, Json(problem)).into_response()
}
