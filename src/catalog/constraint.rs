//! `constraints`: an expression over an instance's raw tags.
//!
//! ``Tag(`a=b`)``, ``TagRegex(`^a`)``, `&&`, `||`, `!` and parentheses, as Traefik has it; strings stand in back quotes or
//! double quotes.

use regex::Regex;

/// How deep parentheses and negations may nest.
const DEPTH_MAX: usize = 64;

/// A compiled expression.
#[derive(Clone, Debug)]
pub(super) enum Constraint {
    Tag(String),
    TagRegex(Regex),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Constraint {
    /// Reads an expression. `Err` says what was expected and where.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let constraint = reader.any()?;
        match reader.rest() {
            "" => Ok(constraint),
            rest => Err(format!("`{rest}` is left over; `&&` or `||` is wanted before it")),
        }
    }

    /// Whether an instance with these tags satisfies it.
    pub(super) fn matches(&self, tags: &[String]) -> bool {
        match self {
            Self::Tag(tag) => tags.contains(tag),
            Self::TagRegex(regex) => tags.iter().any(|tag| regex.is_match(tag)),
            Self::Not(inner) => !inner.matches(tags),
            Self::All(parts) => parts.iter().all(|part| part.matches(tags)),
            Self::Any(parts) => parts.iter().any(|part| part.matches(tags)),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
}

impl<'t> Reader<'t> {
    /// What is still to be read, without leading space.
    fn rest(&mut self) -> &'t str {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        trimmed
    }

    fn take(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    fn any(&mut self) -> Result<Constraint, String> {
        let first = self.all()?;
        let mut parts = vec![first];
        while self.take("||") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() > 1 { Constraint::Any(parts) } else { parts.remove(0) })
    }

    fn all(&mut self) -> Result<Constraint, String> {
        let first = self.one()?;
        let mut parts = vec![first];
        while self.take("&&") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() > 1 { Constraint::All(parts) } else { parts.remove(0) })
    }

    fn one(&mut self) -> Result<Constraint, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("it is nested more than {DEPTH_MAX} deep"));
        }
        let constraint = if self.take("!") {
            Constraint::Not(Box::new(self.one()?))
        } else if self.take("(") {
            let inner = self.any()?;
            self.closing()?;
            inner
        } else if self.take("TagRegex") {
            let text = self.argument()?;
            Constraint::TagRegex(Regex::new(text).map_err(|error| format!("the regular expression `{text}` is wrong: {error}"))?)
        } else if self.take("Tag") {
            Constraint::Tag(self.argument()?.to_owned())
        } else {
            return Err(format!("``Tag(`…`)``, ``TagRegex(`…`)``, `!` or `(` is wanted at `{}`", self.rest()));
        };
        self.depth -= 1;
        Ok(constraint)
    }

    fn argument(&mut self) -> Result<&'t str, String> {
        if !self.take("(") {
            return Err(format!("`(` is wanted at `{}`", self.rest()));
        }
        let rest = self.rest();
        let quote = rest.chars().next().filter(|quote| matches!(quote, '`' | '"'));
        let quote = quote.ok_or_else(|| format!("a text in back quotes is wanted at `{rest}`"))?;
        let (text, _) = rest
            .get(1..)
            .and_then(|rest| rest.split_once(quote))
            .ok_or_else(|| format!("the text that begins at `{rest}` has no end"))?;
        self.at += text.len() + 2;
        self.closing()?;
        Ok(text)
    }

    fn closing(&mut self) -> Result<(), String> {
        if self.take(")") { Ok(()) } else { Err(format!("`)` is wanted at `{}`", self.rest())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, tags: &[&str], expected: Result<bool, &str>) {
        let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
        let found = Constraint::parse(text).map(|constraint| constraint.matches(&tags));
        assert_eq!(found, expected.map_err(str::to_owned), "{text}");
    }

    #[test]
    fn takes_the_instances_whose_tags_fit() {
        check("Tag(`a=b`)", &["a=b"], Ok(true));
        check("Tag(`a`)", &["a=b"], Ok(false));
        check("TagRegex(`^a=`)", &["x", "a=b"], Ok(true));
        check("!Tag(\"a\")", &["b"], Ok(true));
        check("Tag(`a`) && !(Tag(`b`) || Tag(`c`))", &["a"], Ok(true));
        check("Tag(`a`) && !(Tag(`b`) || Tag(`c`))", &["a", "c"], Ok(false));
        check("Tag(`a`) || Tag(`b`) && Tag(`c`)", &["a"], Ok(true));
    }

    #[test]
    fn says_what_it_wants() {
        check("Tag(a)", &[], Err("a text in back quotes is wanted at `a)`"));
        check("Tag(`a`", &[], Err("`)` is wanted at ``"));
        check("Tag(`a)", &[], Err("the text that begins at ``a)` has no end"));
        check("Tag(`a`) Tag(`b`)", &[], Err("`Tag(`b`)` is left over; `&&` or `||` is wanted before it"));
        check("Label(`a`)", &[], Err("``Tag(`…`)``, ``TagRegex(`…`)``, `!` or `(` is wanted at `Label(`a`)`"));
        check(&"!".repeat(100), &[], Err("it is nested more than 64 deep"));
        check("", &[], Err("``Tag(`…`)``, ``TagRegex(`…`)``, `!` or `(` is wanted at ``"));
    }
}
