//! Sends a sequence over plain sockets.
