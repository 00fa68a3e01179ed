//! What is wrong is said once, and again when it comes back after it was mended.

use std::collections::BTreeSet;

use crate::config::problem::{Problem, Severity};

/// The problems that were said and still hold.
#[derive(Debug, Default)]
pub struct Said(BTreeSet<String>);

impl Said {
    /// Logs those of `problems`, which are all that hold now, that were not said yet.
    pub fn say(&mut self, problems: &[Problem]) {
        for (severity, text) in self.news(problems) {
            match severity {
                Severity::Error => tracing::error!("{text}"),
                Severity::Warning => tracing::warn!("{text}"),
            }
        }
    }

    fn news(&mut self, problems: &[Problem]) -> Vec<(Severity, String)> {
        let before = std::mem::take(&mut self.0);
        let mut news = Vec::new();
        for problem in problems {
            let text = problem.to_string();
            if self.0.insert(text.clone()) && !before.contains(&text) {
                news.push((problem.severity, text));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::At;

    #[test]
    fn a_problem_is_said_once_and_again_when_it_comes_back_after_it_was_mended() {
        let mut said = Said::default();
        let mut check = |problems: &[&str], expected: &[&str]| {
            let of = |texts: &[&str]| texts.iter().map(|text| Problem::error(&At::default(), *text)).collect::<Vec<_>>();
            let new: Vec<String> = said.news(&of(problems)).into_iter().map(|(_, text)| text).collect();
            assert_eq!(new, of(expected).iter().map(ToString::to_string).collect::<Vec<_>>());
        };
        check(&["a", "b", "a"], &["a", "b"]);
        check(&["a", "b"], &[]);
        check(&["b"], &[]);
        check(&["b", "a"], &["a"]);
    }
}
