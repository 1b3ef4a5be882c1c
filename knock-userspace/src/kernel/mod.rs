//! The only room that knows aya: loads the detector, attaches it, reads what it reports.
