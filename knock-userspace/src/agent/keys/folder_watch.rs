//! Notices changes in the folder of keys.

use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use knock_keys::create_private;
use knock_policy::Policy;
use tracing::warn;

use super::wanted;

/// An inotify watch on the folder of keys. Idle while no door takes keyed knocks.
pub(in crate::agent) struct FolderWatch {
    folder: PathBuf,
    stream: Option<EventStream<[u8; 4096]>>,
}

impl FolderWatch {
    /// Watches the folder of `policy` from now on. The keys must be read after this, so that no
    /// change falls in between.
    pub(in crate::agent) fn open(policy: &Policy) -> Self {
        let mut watch = Self { folder: policy.keys.clone(), stream: None };
        if wanted(policy) {
            // If the folder cannot be made, reading the keys logs that.
            let _ = create_private(&watch.folder);
            watch.listen();
        }
        watch
    }

    fn listen(&mut self) {
        let stream = listen(&self.folder);
        if let Err(error) = &stream {
            warn!(%error, "changed keys are not noticed before the next reload");
        }
        self.stream = stream.ok();
    }

    /// Waits until a key file may have changed, or without end if there is no watch. Cancel safe.
    pub(in crate::agent) async fn changed(&mut self) {
        loop {
            let Some(stream) = &mut self.stream else { return std::future::pending().await };
            match stream.next().await {
                Some(Ok(event)) => {
                    let gone = EventMask::MOVE_SELF | EventMask::DELETE_SELF | EventMask::IGNORED;
                    if event.mask.intersects(gone) {
                        // Another folder may be at the path by now.
                        self.listen();
                        return;
                    }
                    let name = event.name.as_deref().map(Path::new);
                    // An event without a name is of the folder itself, or of a queue that
                    // overflowed.
                    if name.is_none_or(|name| name.extension().is_some_and(|e| e == "toml")) {
                        return;
                    }
                }
                Some(Err(error)) => {
                    warn!(%error, "changed keys are no longer noticed; reload to read them");
                    self.stream = None;
                }
                None => self.stream = None,
            }
        }
    }
}

fn listen(folder: &Path) -> std::io::Result<EventStream<[u8; 4096]>> {
    let inotify = Inotify::init()?;
    let changes = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ATTRIB;
    let changes = changes | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF;
    inotify.watches().add(folder, changes)?;
    inotify.into_event_stream([0; 4096])
}
