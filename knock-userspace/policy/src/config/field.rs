//! The value of a key in a config, if it has one that can be read.

/// The value of one key.
#[derive(Clone, Debug, Default)]
pub(super) enum Field<T> {
    /// The key is not in the file.
    #[default]
    Absent,
    /// The key has a value that was reported as a mistake, or is misspelt.
    Mistaken,
    /// The key has a value of the right type.
    Given(T),
}

impl<T> Field<T> {
    pub(super) const fn as_ref(&self) -> Field<&T> {
        match self {
            Self::Absent => Field::Absent,
            Self::Mistaken => Field::Mistaken,
            Self::Given(value) => Field::Given(value),
        }
    }

    pub(super) fn given(self) -> Option<T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Mistaken => None,
        }
    }

    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Mistaken => Field::Mistaken,
            Self::Given(value) => Field::Given(f(value)),
        }
    }

    /// Returns the value, `absent` without the key, or `mistaken` if the value is not known.
    pub(super) fn or(self, absent: T, mistaken: T) -> T {
        match self {
            Self::Given(value) => value,
            Self::Absent => absent,
            Self::Mistaken => mistaken,
        }
    }
}
