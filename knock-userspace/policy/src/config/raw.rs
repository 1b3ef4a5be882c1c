//! The file as it is written: every value with its place, and only its type checked.
//!
//! A struct made by `table!` stands for a TOML table. Its fields are the keys of the table, so the
//! reader and the suggestions always know the same keys. A value of the wrong type is reported, and
//! its field marked as [`Field::Mistaken`].

use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Mistake, Mistakes};
use super::field::Field;

pub(super) type Text = Spanned<String>;
/// The elements of a list, `None` for those of another type.
pub(super) type Texts = Spanned<Vec<Option<Text>>>;

impl<T> Field<Spanned<T>> {
    pub(super) fn place(&self) -> Option<Range<usize>> {
        self.as_ref().given().map(Spanned::span)
    }
}

macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name {
            $(pub(super) $key: Field<$type>,)*
        }

        impl Table for $name {
            const KEYS: &[&str] = &[$(stringify!($key)),*];

            fn set(&mut self, key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) {
                match key {
                    $(stringify!($key) => {
                        let value = <$type>::read(key, value, mistakes);
                        self.$key = value.map_or(Field::Mistaken, Field::Given);
                    })*
                    _ => {}
                }
            }

            fn set_mistaken(&mut self, key: &str) {
                match key {
                    $(stringify!($key) => if matches!(self.$key, Field::Absent) {
                        self.$key = Field::Mistaken;
                    })*
                    _ => {}
                }
            }
        }
    };
}

table! {
    /// All but the doors.
    Config {
        interfaces: Texts,
        mode: Text,
        connections: Text,
        attach: Text,
        knocks: Text,
        always_allow: Texts,
        strays: Spanned<i64>,
        decoys: Spanned<i64>,
        max_sources: Spanned<i64>,
        max_grants: Spanned<i64>,
        late_grants: Text,
        keys: Text,
        clock_window: Text,
        door: Vec<Spanned<Door>>,
    }
}

table! {
    Door {
        name: Text,
        opens: Texts,
        method: Text,
        sequence: Texts,
        ports: Text,
        steps: Spanned<i64>,
        mixed: Spanned<bool>,
        port: Spanned<i64>,
        addresses: Text,
        within: Text,
        open_for: Text,
        cut: Spanned<bool>,
        reorder: Spanned<bool>,
        max_grants: Spanned<i64>,
    }
}

/// A TOML table with a fixed set of keys.
pub(super) trait Table: Default {
    const KEYS: &[&str];

    /// Reads the value of `key`, one of [`Table::KEYS`].
    fn set(&mut self, key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes);

    /// Marks `key` as mistaken if it has no value.
    fn set_mistaken(&mut self, key: &str);

    /// Reads all of `table`. `elsewhere` returns the advice for a key of another table.
    fn read_all(
        table: DeTable<'_>,
        elsewhere: impl Fn(&str) -> Option<String>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut result = Self::default();
        for (key, value) in table {
            let (place, key) = (key.span(), key.into_inner());
            if Self::KEYS.contains(&&*key) {
                result.set(&key, value, mistakes);
                continue;
            }
            let help = if let Some(help) = elsewhere(&key) {
                help
            } else if let Some(similar) = similar(&key, Self::KEYS) {
                // The key that was meant must not be reported as missing too.
                result.set_mistaken(similar);
                format!("did you mean `{similar}`?")
            } else {
                format!("known here: {}", Self::KEYS.join(", "))
            };
            mistakes.add(Mistake::new(place, format!("unknown field `{key}`"), help));
        }
        result
    }
}

/// Returns the key that was probably meant by `written`.
fn similar(written: &str, keys: &[&'static str]) -> Option<&'static str> {
    const MOST: usize = 3;
    const LONGEST: usize = 32;
    if written.len() > LONGEST {
        return None;
    }
    let keys = keys.iter().map(|key| (strsim::damerau_levenshtein(key, written), *key));
    let similar = keys.filter(|(distance, _)| *distance <= MOST && *distance < written.len());
    similar.min().map(|(_, key)| key)
}

impl Config {
    /// Reads the table that is the whole file.
    pub(super) fn read(table: DeTable<'_>, mistakes: &mut Mistakes) -> Self {
        let elsewhere = |key: &str| {
            let is_of_door = Door::KEYS.contains(&key);
            is_of_door.then(|| format!("`{key}` belongs to a door: write it below its [[door]]"))
        };
        Self::read_all(table, elsewhere, mistakes)
    }
}

/// A type of values.
trait Read: Sized {
    /// Reads `value`, or reports that it is of another type and returns `None`.
    fn read(key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self>;
}

impl Read for Text {
    fn read(key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self> {
        let place = value.span();
        let wrong = match value.into_inner() {
            DeValue::String(text) => return Some(Self::new(place, text.into_owned())),
            other => (
                wrong_type(key, "text", &other),
                match other {
                    DeValue::Integer(number) => format!("write \"{number}\""),
                    _ => "write it in quotes".to_owned(),
                },
            ),
        };
        mistakes.note(place, Err(wrong))
    }
}

impl Read for Spanned<i64> {
    fn read(key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self> {
        let place = value.span();
        let wrong = match value.into_inner() {
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => return Some(Self::new(place, number)),
                    Err(_) => (format!("{number} is out of range"), "give a smaller number".into()),
                }
            }
            other => (
                wrong_type(key, "a whole number", &other),
                match other {
                    DeValue::String(text) if text.parse::<i64>().is_ok() => {
                        format!("write {text} without quotes")
                    }
                    _ => "give a number like 5".to_owned(),
                },
            ),
        };
        mistakes.note(place, Err(wrong))
    }
}

impl Read for Spanned<bool> {
    fn read(key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self> {
        let place = value.span();
        let wrong = match value.into_inner() {
            DeValue::Boolean(flag) => return Some(Self::new(place, flag)),
            other => (
                wrong_type(key, "`true` or `false`", &other),
                "write one of them without quotes".into(),
            ),
        };
        mistakes.note(place, Err(wrong))
    }
}

impl Read for Texts {
    fn read(key: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self> {
        let place = value.span();
        let wrong = match value.into_inner() {
            DeValue::Array(elements) => {
                let texts = elements.into_iter().map(|element| Text::read(key, element, mistakes));
                return Some(Self::new(place, texts.collect()));
            }
            other => {
                let help = match &other {
                    DeValue::String(text) => format!("write [\"{text}\"]"),
                    _ => "write it in brackets, as in [\"tcp/22\"]".to_owned(),
                };
                (wrong_type(key, "a list", &other), help)
            }
        };
        mistakes.note(place, Err(wrong))
    }
}

impl Read for Vec<Spanned<Door>> {
    fn read(_: &str, value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Self> {
        let place = value.span();
        let elements: Vec<_> = match value.into_inner() {
            DeValue::Array(elements) => elements.into_iter().collect(),
            table @ DeValue::Table(_) => {
                let help = "write [[door]], because there may be several";
                mistakes.add(Mistake::new(place.clone(), "this is not a list of doors", help));
                vec![Spanned::new(place, table)]
            }
            other => vec![Spanned::new(place, other)],
        };
        let is_empty = elements.is_empty();
        let doors = elements.into_iter().filter_map(|element| door(element, mistakes));
        Some(doors.collect::<Vec<_>>()).filter(|doors| is_empty || !doors.is_empty())
    }
}

fn door(value: Spanned<DeValue<'_>>, mistakes: &mut Mistakes) -> Option<Spanned<Door>> {
    let place = value.span();
    let DeValue::Table(table) = value.into_inner() else {
        let help = "begin it with a line [[door]]";
        mistakes.add(Mistake::new(place, "this is not a door", help));
        return None;
    };
    let elsewhere = |key: &str| {
        let is_of_config = Config::KEYS.contains(&key);
        is_of_config.then(|| format!("`{key}` belongs above the first [[door]]"))
    };
    Some(Spanned::new(place, Door::read_all(table, elsewhere, mistakes)))
}

fn wrong_type(key: &str, expected: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("`{key}` takes {expected}, not {found}")
}
