//! Configs, built key by key.

use std::fmt;

use toml::{Table, Value};

use crate::process::seconds;

/// The text of a config. Methods for keys of a door change the door that was added last, and panic
/// if there is none.
#[derive(Clone, Debug, Default)]
pub struct ConfigText {
    top: Table,
    doors: Vec<Table>,
}

impl ConfigText {
    /// Watches `eth0` and enforces, without a door so far.
    pub fn new() -> Self {
        Self::default().interfaces(["eth0"]).top("mode", "enforce")
    }

    /// The same with the door `ssh`: `tcp/22`, for the three steps in [`ConfigText::STEPS`].
    pub fn ssh() -> Self {
        Self::new().door("ssh", ["tcp/22"]).sequence(Self::STEPS)
    }

    /// The steps of [`ConfigText::ssh`], as `xknock` takes them.
    pub const STEPS: &str = "tcp/7000,udp/8000,tcp/9000";

    /// Only counts what it would refuse.
    #[must_use]
    pub fn observing(self) -> Self {
        self.top("mode", "observe")
    }

    /// Watches these interfaces in place of others.
    #[must_use]
    pub fn interfaces<const N: usize>(self, names: [&str; N]) -> Self {
        self.top("interfaces", names.to_vec())
    }

    /// Sets a key that stands above all doors.
    #[must_use]
    pub fn top(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.top.insert(key.to_owned(), value.into());
        self
    }

    /// Adds a door that opens these services. It still needs steps or a method.
    #[must_use]
    pub fn door<const N: usize>(mut self, name: &str, opens: [&str; N]) -> Self {
        self.doors.push(Table::new());
        self.in_door("name", name).opens(opens)
    }

    /// Sets a key of the door.
    ///
    /// # Panics
    ///
    /// If there is no door.
    #[must_use]
    pub fn in_door(mut self, key: &str, value: impl Into<Value>) -> Self {
        let door = self.doors.last_mut().expect("a door was added before its keys");
        door.insert(key.to_owned(), value.into());
        self
    }

    /// The services that the door opens.
    #[must_use]
    pub fn opens<const N: usize>(self, services: [&str; N]) -> Self {
        self.in_door("opens", services.to_vec())
    }

    /// The steps of the door, as `xknock` takes them: `tcp/7000,udp/8000`.
    #[must_use]
    pub fn sequence(self, steps: &str) -> Self {
        self.in_door("sequence", steps.split(',').collect::<Vec<_>>())
    }

    /// How one knocks at the door, if not by a sequence.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.in_door("method", method)
    }

    /// How long the door stays open.
    #[must_use]
    pub fn open_for(self, time: &str) -> Self {
        self.in_door("open_for", time)
    }

    /// How long a knock at the door may take.
    #[must_use]
    pub fn within(self, time: &str) -> Self {
        self.in_door("within", time)
    }
}

impl fmt::Display for ConfigText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.top.clone();
        // A knock may wait as much longer as this machine is slower.
        all.entry("late_grants").or_insert_with(|| seconds(5).into());
        if !self.doors.is_empty() {
            all.insert("door".to_owned(), self.doors.clone().into());
        }
        f.write_str(&toml::to_string(&all).map_err(|_| fmt::Error)?)
    }
}

impl From<ConfigText> for String {
    fn from(text: ConfigText) -> Self {
        text.to_string()
    }
}

impl From<&ConfigText> for String {
    fn from(text: &ConfigText) -> Self {
        text.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_has_what_was_set_last() {
        let text = ConfigText::ssh().open_for("1m").open_for("2m").observing();
        let text = text.door("web", ["tcp/80", "tcp/443"]).method("sealed").top("strays", 5);
        let read: Table = text.to_string().parse().expect("TOML");
        assert_eq!(read["mode"].as_str(), Some("observe"));
        assert_eq!(read["strays"].as_integer(), Some(5));
        let doors = read["door"].as_array().expect("doors");
        assert_eq!(doors[0]["open_for"].as_str(), Some("2m"));
        assert_eq!(doors[0]["sequence"].as_array().map(Vec::len), Some(3));
        assert_eq!(doors[1]["opens"].as_array().map(Vec::len), Some(2));
        assert!(doors[1].get("sequence").is_none());
    }

    #[test]
    #[should_panic(expected = "a door was added before its keys")]
    fn a_key_of_a_door_needs_a_door() {
        let _ = ConfigText::new().open_for("1m");
    }
}
