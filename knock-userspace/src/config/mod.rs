//! From a TOML file to a [`Policy`](crate::policy::Policy).
