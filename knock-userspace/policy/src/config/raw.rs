//! The file as it is written: every value with its place, none of them checked.

use serde::Deserialize;
use serde_spanned::Spanned;

use super::Mistake;

pub(super) type Text = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default)]
    pub interfaces: Vec<Text>,
    pub mode: Option<Text>,
    pub connections: Option<Text>,
    pub attach: Option<Text>,
    pub knocks: Option<Text>,
    #[serde(default)]
    pub always_allow: Vec<Text>,
    pub strays: Option<Spanned<i64>>,
    pub decoys: Option<Spanned<i64>>,
    pub max_sources: Option<Spanned<i64>>,
    pub max_grants: Option<Spanned<i64>>,
    pub late_grants: Option<Text>,
    pub keys: Option<Text>,
    pub clock_window: Option<Text>,
    #[serde(default, rename = "door")]
    pub doors: Vec<Spanned<Door>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Door {
    pub name: Text,
    pub opens: Spanned<Vec<Text>>,
    pub method: Option<Text>,
    pub sequence: Option<Spanned<Vec<Text>>>,
    pub ports: Option<Text>,
    pub steps: Option<Spanned<i64>>,
    pub mixed: Option<Spanned<bool>>,
    pub port: Option<Spanned<i64>>,
    pub addresses: Option<Text>,
    pub within: Option<Text>,
    pub open_for: Option<Text>,
    pub cut: Option<bool>,
    pub reorder: Option<Spanned<bool>>,
    pub max_grants: Option<Spanned<i64>>,
}

/// Every key, for suggestions.
const KEYS: [&str; 27] = [
    "interfaces",
    "mode",
    "connections",
    "attach",
    "knocks",
    "always_allow",
    "strays",
    "decoys",
    "max_sources",
    "max_grants",
    "late_grants",
    "keys",
    "clock_window",
    "door",
    "name",
    "opens",
    "method",
    "sequence",
    "ports",
    "steps",
    "mixed",
    "port",
    "addresses",
    "within",
    "open_for",
    "cut",
    "reorder",
];

/// What the TOML reader refused, with what might have been meant.
pub(super) fn mistake(error: &toml::de::Error, text: &str) -> Mistake {
    let span = error.span().unwrap_or(0..0);
    let found = text.get(span.clone()).unwrap_or_default();
    let unknown = error.message().starts_with("unknown field");
    let similar = KEYS
        .iter()
        .map(|key| (strsim::damerau_levenshtein(key, found), key))
        .filter(|(distance, _)| unknown && *distance <= 3)
        .min();
    let help = match similar {
        Some((_, key)) => format!("did you mean `{key}`?"),
        None => String::new(),
    };
    Mistake::new(span, error.message().lines().next().unwrap_or("this is not TOML"), help)
}
