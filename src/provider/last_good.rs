//! For each file the last text that could be understood, as what it means.
//!
//! A broken or half-written edit costs nothing but a problem: the file goes on meaning what it meant. A file that
//! vanished means nothing any more. Pure: texts come from [`super::file`], the function that understands them is given,
//! and time is an argument.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::FileState;
use crate::config::problem::{At, Problem, Problems};

/// A file that was emptied is taken at its word after this time; before, it is taken for one that is being written.
pub const EMPTY_BELIEVED_AFTER: Duration = Duration::from_secs(5);

/// How a file's text is understood: a value, or everything that is wrong with it.
pub type Parse<T> = fn(&Path, &str) -> Result<T, Problems>;

/// See the module.
#[derive(Debug)]
pub struct LastGood<T> {
    parse: Parse<T>,
    files: BTreeMap<PathBuf, Kept<T>>,
    unreadable: BTreeMap<PathBuf, Problem>,
}

#[derive(Debug)]
struct Kept<T> {
    /// The newest text, good or not.
    text: Arc<str>,
    good: Option<T>,
    problems: Problems,
    /// Set while an emptied file is not yet believed.
    empty_since: Option<Instant>,
}

impl<T> LastGood<T> {
    /// Nothing is known yet.
    pub fn new(parse: Parse<T>) -> Self {
        Self { parse, files: BTreeMap::new(), unreadable: BTreeMap::new() }
    }

    /// Takes in the newest texts; only what changed is parsed. Whether values or problems are others than before.
    pub fn step(&mut self, now: Instant, state: &FileState) -> bool {
        let before = self.files.len();
        self.files.retain(|path, _| state.files.contains_key(path));
        let mut is_other = self.files.len() != before || self.unreadable != state.unreadable;
        self.unreadable.clone_from(&state.unreadable);
        for (path, content) in &state.files {
            is_other |= match self.files.get_mut(path) {
                Some(kept) => kept.step(now, path, &content.text, self.parse),
                None => {
                    self.files.insert(path.clone(), Kept::new(path, &content.text, self.parse));
                    true
                }
            };
        }
        is_other
    }

    /// What each file means, by its last good text, in the order of paths.
    pub fn values(&self) -> impl Iterator<Item = (&Path, &T)> {
        self.files.iter().filter_map(|(path, kept)| Some((path.as_path(), kept.good.as_ref()?)))
    }

    /// What is wrong with the newest texts, and with what cannot be read.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable.values().chain(self.files.values().flat_map(|kept| &kept.problems))
    }

    /// When [`LastGood::step`] must be called again with the same state, because an emptied file is believed then.
    pub fn deadline(&self) -> Option<Instant> {
        self.files.values().filter_map(|kept| kept.empty_since).min().map(|since| since + EMPTY_BELIEVED_AFTER)
    }
}

impl<T> Kept<T> {
    fn new(path: &Path, text: &Arc<str>, parse: Parse<T>) -> Self {
        let mut kept = Self { text: Arc::clone(text), good: None, problems: Vec::new(), empty_since: None };
        kept.take(path, parse);
        kept
    }

    fn step(&mut self, now: Instant, path: &Path, text: &Arc<str>, parse: Parse<T>) -> bool {
        let is_same = self.text == *text;
        self.text = Arc::clone(text);
        if !text.trim().is_empty() || self.good.is_none() {
            self.empty_since = None;
            if !is_same {
                self.take(path, parse);
            }
            return !is_same;
        }
        // Emptied. Many programs truncate a file before they write it.
        match self.empty_since {
            None if is_same => false,
            Some(since) if now.saturating_duration_since(since) >= EMPTY_BELIEVED_AFTER => {
                self.empty_since = None;
                self.take(path, parse);
                true
            }
            Some(_) => false,
            None => {
                self.empty_since = Some(now);
                let message = format!("is empty, which is believed after {} s", EMPTY_BELIEVED_AFTER.as_secs());
                self.problems = vec![Problem::warning(&At::whole(path.display().to_string()), message)];
                true
            }
        }
    }

    fn take(&mut self, path: &Path, parse: Parse<T>) {
        match parse(path, &self.text) {
            Ok(good) => {
                self.good = Some(good);
                self.problems.clear();
            }
            Err(problems) => self.problems = problems,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::file::FileContent;

    /// Understands one number.
    fn number(path: &Path, text: &str) -> Result<i64, Problems> {
        let text = text.trim();
        let at = At { source: path.display().to_string().into(), line: 1, column: 1 };
        if text.is_empty() {
            Ok(0)
        } else {
            text.parse().map_err(|_invalid| vec![Problem::error(&at, format!("`{text}` is no number"))])
        }
    }

    /// When, the text of each file, and what is expected.
    type Seen<'t> = (u64, &'t [(&'t str, &'t str)], &'t str);

    /// Shows texts in turn and compares values and problems after each.
    #[track_caller]
    fn check(seen: &[Seen<'_>]) {
        let start = crate::clock::now();
        let mut files = LastGood::new(number);
        for (seconds, texts, expected) in seen {
            let content = |text: &str| FileContent { text: text.into(), modified: None };
            let texts = texts.iter().map(|(path, text)| (PathBuf::from(path), content(text))).collect();
            files.step(start + Duration::from_secs(*seconds), &FileState { files: texts, unreadable: BTreeMap::new() });
            let values: Vec<_> = files.values().map(|(path, value)| format!("{}={value}", path.display())).collect();
            let problems: Vec<_> = files.problems().map(ToString::to_string).collect();
            assert_eq!([values, problems].concat().join("; "), *expected, "after {seconds} s");
        }
    }

    #[test]
    fn a_broken_edit_keeps_the_last_good_state_of_that_file_only() {
        check(&[
            (0, &[("a", "1"), ("b", "2")], "a=1; b=2"),
            (1, &[("a", "x"), ("b", "3")], "a=1; b=3; a:1:1: `x` is no number"),
            (2, &[("a", "4"), ("b", "3")], "a=4; b=3"),
        ]);
    }

    #[test]
    fn a_file_that_vanished_is_gone_and_one_that_never_was_good_says_so() {
        check(&[(0, &[("a", "1"), ("b", "x")], "a=1; b:1:1: `x` is no number"), (1, &[("b", "x")], "b:1:1: `x` is no number")]);
    }

    #[test]
    fn an_emptied_file_is_believed_after_a_while() {
        check(&[
            (0, &[("a", "1")], "a=1"),
            (1, &[("a", "")], "a=1; a: is empty, which is believed after 5 s"),
            (4, &[("a", "")], "a=1; a: is empty, which is believed after 5 s"),
            (6, &[("a", "")], "a=0"),
            (7, &[("a", "")], "a=0"),
            (8, &[("a", "2")], "a=2"),
            (9, &[("a", "\n")], "a=2; a: is empty, which is believed after 5 s"),
            (10, &[("a", "3")], "a=3"),
        ]);
        check(&[(0, &[("a", "")], "a=0")]);
    }

    #[test]
    fn says_when_to_look_again_and_what_is_unchanged() {
        let now = crate::clock::now();
        let state = |text: &str| {
            let content = FileContent { text: text.into(), modified: None };
            FileState { files: BTreeMap::from([(PathBuf::from("a"), content)]), unreadable: BTreeMap::new() }
        };
        let mut files = LastGood::new(number);
        assert!(files.step(now, &state("1")));
        assert!(!files.step(now, &state("1")));
        assert_eq!(files.deadline(), None);
        assert!(files.step(now, &state("")));
        assert_eq!(files.deadline(), Some(now + EMPTY_BELIEVED_AFTER));
        assert!(files.step(now + EMPTY_BELIEVED_AFTER, &state("")));
        assert_eq!(files.deadline(), None);
    }
}
