//! Mistakes in a config, shown with their place.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceSpan};
use serde_spanned::Spanned;

use super::field::Field;
use super::values::Wrong;

/// The longest line that is shown, in bytes.
const READABLE: usize = 1000;
/// The number of mistakes that are shown at most.
pub(super) const MOST: usize = 20;

/// The reason why a config was refused.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the config {file}: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// The error of the system.
        why: io::Error,
    },
    /// The file is larger than any sensible config.
    #[error("the config {file} is larger than {limit_mib} MiB")]
    TooLarge {
        /// The file.
        file: String,
        /// The limit.
        limit_mib: u64,
    },
    /// The file is not text.
    #[error("the config {file} is not UTF-8 text: see byte {offset}")]
    NotText {
        /// The file.
        file: String,
        /// The number of bytes before the first that is not text.
        offset: usize,
    },
    /// The text has mistakes.
    #[error("the config {file} has {}", count(*.total))]
    Mistakes {
        /// The file.
        file: String,
        /// The number of all mistakes.
        total: usize,
        /// The first of them.
        #[related]
        mistakes: Vec<Mistake>,
    },
}

fn count(mistakes: usize) -> String {
    match mistakes {
        1 => "a mistake".to_owned(),
        n if n > MOST => format!("{n} mistakes, of which these are the first {MOST}"),
        n => format!("{n} mistakes"),
    }
}

impl ConfigError {
    pub(super) fn mistakes(name: &str, text: &str, mut mistakes: Vec<Mistake>) -> Self {
        let total = mistakes.len();
        mistakes.sort_by_key(|mistake| mistake.span.offset());
        mistakes.truncate(MOST);
        let text = Arc::new(text.to_owned());
        for mistake in &mut mistakes {
            mistake.locate(name, &text);
        }
        Self::Mistakes { file: name.to_owned(), total, mistakes }
    }
}

/// One mistake.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Mistake {
    message: String,
    help: String,
    span: SourceSpan,
    /// Another place that the mistake is about, with a label for it.
    other: Option<(SourceSpan, String)>,
    /// Whether the mistake is in one value alone, whatever the rest of the file says.
    of_value: bool,
    text: Option<NamedSource<Arc<String>>>,
}

impl Mistake {
    pub(super) fn new(
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
            span: span.into(),
            other: None,
            of_value: false,
            text: None,
        }
    }

    /// Returns the offset of the mistake in the text.
    pub(super) const fn offset(&self) -> usize {
        self.span.offset()
    }

    pub(super) const fn is_of_value(&self) -> bool {
        self.of_value
    }

    pub(super) fn and(mut self, span: Range<usize>, what: impl Into<String>) -> Self {
        self.other = Some((span.into(), what.into()));
        self
    }

    /// Gives the mistake the text to show. On a line that is too long to show, the mistake gets
    /// its place instead.
    fn locate(&mut self, name: &str, text: &Arc<String>) {
        let start = self.span.offset().min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |length| start + length);
        if line_end - line_start > READABLE {
            let line = text[..start].matches('\n').count() + 1;
            let column = text[line_start..start].chars().count() + 1;
            self.message = format!("{name}:{line}:{column}: {}", self.message);
            return;
        }
        self.text = Some(NamedSource::new(name, Arc::clone(text)));
    }
}

impl Diagnostic for Mistake {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        (!self.help.is_empty()).then(|| Box::new(&self.help) as _)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.text.as_ref().map(|text| text as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let here = LabeledSpan::new_primary_with_span(Some("here".into()), self.span);
        let other = self.other.as_ref();
        let other = other.map(|(span, what)| LabeledSpan::new_with_span(Some(what.clone()), *span));
        Some(Box::new(std::iter::once(here).chain(other)))
    }
}

/// The mistakes that were found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn add(&mut self, mistake: Mistake) {
        self.0.push(mistake);
    }

    /// Returns the value at `span`, or notes that it is wrong.
    pub(super) fn note<T>(&mut self, span: Range<usize>, result: Result<T, Wrong>) -> Option<T> {
        let mistake = |(what, help)| Mistake { of_value: true, ..Mistake::new(span, what, help) };
        result.map_err(|wrong| self.0.push(mistake(wrong))).ok()
    }

    /// Reads the value that is written with `read`, and notes if it is wrong.
    pub(super) fn read<W, T>(
        &mut self,
        written: Field<Spanned<W>>,
        read: impl FnOnce(W) -> Result<T, Wrong>,
    ) -> Field<T> {
        match written {
            Field::Absent => Field::Absent,
            Field::Mistaken => Field::Mistaken,
            Field::Given(written) => {
                let span = written.span();
                let value = self.note(span, read(written.into_inner()));
                value.map_or(Field::Mistaken, Field::Given)
            }
        }
    }

    /// Does the same as [`Mistakes::read`], with `default` for a value that is absent or wrong.
    pub(super) fn optional<W, T>(
        &mut self,
        written: Field<Spanned<W>>,
        default: T,
        read: impl FnOnce(W) -> Result<T, Wrong>,
    ) -> T {
        self.read(written, read).given().unwrap_or(default)
    }

    pub(super) fn into_inner(self) -> Vec<Mistake> {
        self.0
    }
}
