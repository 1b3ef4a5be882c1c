//! The event loop: completed knocks in, grants out.
