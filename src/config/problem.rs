//! A problem is the user's mistake, said so that the user can mend it: where, what was expected, and the nearest right spelling.

use std::fmt;
use std::sync::Arc;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct At {
    /// A file's path, `flag --x`, `environment X`, or ``tag `traefik.x=y` of instance …``.
    pub source: Arc<str>,
    /// From 1; 0 where the source has no lines.
    pub line: u32,
    /// From 1, in characters; 0 where the source has no lines.
    pub column: u32,
}

impl At {
    /// A place without lines: a flag, a variable, a tag.
    pub fn whole(source: impl Into<Arc<str>>) -> Self {
        Self { source: source.into(), line: 0, column: 0 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.source) } else { write!(f, "{}:{}:{}", self.source, self.line, self.column) }
    }
}

/// How much a problem costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// What was asked for does not happen, all else does.
    Warning,
    /// The object (or, in the install configuration, the start) is refused.
    Error,
}

/// One mistake of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What it costs.
    pub severity: Severity,
    /// Where it was written, if it was written anywhere.
    pub at: Option<At>,
    /// What is wrong and what was expected, in one sentence without a full stop.
    pub message: String,
    /// The nearest right spelling, or what to do instead.
    pub hint: Option<String>,
}

impl Problem {
    /// A mistake that refuses what it stands in.
    pub fn error(at: &At, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, at: Some(at.clone()), message: message.into(), hint: None }
    }

    /// A mistake that costs only itself.
    pub fn warning(at: &At, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, at: Some(at.clone()), message: message.into(), hint: None }
    }

    /// Adds what to do instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Problems in the order they were found. Collected, never thrown: whoever reads on finds them all at once.
pub type Problems = Vec<Problem>;

/// Whether any of them refuses what it stands in.
pub fn has_error(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}

/// The known word nearest to `word`, if one is near enough to be what was meant.
///
/// Case does not count. Near enough means at most a third of the word's letters to change (and at least one).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (edit_distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                best = best.min(before_last[j - 1] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["certificatesResolvers", "entryPoints", "providers", "ping"];
        assert_eq!(nearest("certifacesResolvers", known), Some("certificatesResolvers"));
        assert_eq!(nearest("entrypoint", known), Some("entryPoints"));
        assert_eq!(nearest("pign", known), Some("ping"));
        assert_eq!(nearest("dashboard", known), None);
    }
}
