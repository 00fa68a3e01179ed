//! Go's regular expressions on the `regex` crate.
//!
//! Both descend from RE2, but they part in ways that a rule can feel: Go's `\d`, `\w`, `\s` and `\b` know ASCII only, a `{` that
//! opens no repetition is a brace, `[`, `&&` and `--` mean nothing special in a class, `\<` is `<`, `\Q…\E` quotes. [`compile`]
//! rewrites an expression so that it matches what it matches in Traefik, unanchored. Redirections use it too.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

/// The most memory one compiled expression may take.
const COMPILED_BYTES_MAX: usize = 10 << 20;

/// Go's limit.
const REPETITIONS_MAX: u32 = 1000;

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the regular expression cannot be used: {0}")]
pub struct InvalidPattern(String);

impl InvalidPattern {
    /// What is wrong, without the words around it.
    pub fn reason(&self) -> &str {
        &self.0
    }
}

/// Compiles an expression written for Go.
pub fn compile(go: &str) -> Result<Regex, InvalidPattern> {
    let pattern = Translation { rest: go.chars().peekable(), out: String::with_capacity(go.len() + 8) }.run()?;
    RegexBuilder::new(&pattern).size_limit(COMPILED_BYTES_MAX).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => wrong("it is too big"),
        other => wrong(other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ")),
    })
}

fn wrong(message: impl Into<String>) -> InvalidPattern {
    InvalidPattern(message.into())
}

struct Translation<'g> {
    rest: Peekable<Chars<'g>>,
    out: String,
}

/// One character or one set of them.
enum Item {
    One(char),
    Set(String),
}

impl Translation<'_> {
    fn run(mut self) -> Result<String, InvalidPattern> {
        // How many operators of repetition stand here already: one, or one with the `?` that makes it lazy.
        let mut repeated = 0;
        while let Some(c) = self.rest.next() {
            let repeats = match c {
                '*' | '+' | '?' => true,
                '{' => self.is_repetition()?,
                _ => false,
            };
            repeated = match repeated {
                _ if !repeats => 0,
                0 => 1,
                1 if c == '?' => 2,
                _ => return Err(wrong(format!("`{c}` repeats what repeats already"))),
            };
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '{' if repeats => {
                    let counts = self.rest.by_ref().take_while(|c| *c != '}');
                    self.out.extend(std::iter::once('{').chain(counts).chain(['}']));
                }
                '{' => self.out.push_str(r"\{"),
                '(' => self.group()?,
                _ => self.out.push(c),
            }
        }
        Ok(self.out)
    }

    /// An escape outside of a class.
    fn escape(&mut self) -> Result<(), InvalidPattern> {
        match self.rest.peek() {
            Some('b') => self.replace(r"(?-u:\b)"),
            Some('B') => self.replace(r"(?-u:\B)"),
            Some('A') => self.replace(r"\A"),
            Some('z') => self.replace(r"\z"),
            Some('Q') => self.quoted(),
            _ => match self.escaped()? {
                Item::One(c) => push_literal(&mut self.out, c),
                Item::Set(set) => self.out.push_str(&set),
            },
        }
        Ok(())
    }

    fn replace(&mut self, by: &str) {
        self.rest.next();
        self.out.push_str(by);
    }

    /// `\Q…\E`; without `\E` it reaches to the end.
    fn quoted(&mut self) {
        self.rest.next();
        while let Some(c) = self.rest.next() {
            if c == '\\' && self.rest.peek() == Some(&'E') {
                self.rest.next();
                break;
            }
            push_literal(&mut self.out, c);
        }
    }

    /// What follows a backslash, inside or outside of a class.
    fn escaped(&mut self) -> Result<Item, InvalidPattern> {
        let c = self.rest.next().ok_or_else(|| wrong("it ends in a backslash"))?;
        Ok(match c {
            'd' => Item::Set("[0-9]".to_owned()),
            'D' => Item::Set("[^0-9]".to_owned()),
            'w' => Item::Set("[0-9A-Za-z_]".to_owned()),
            'W' => Item::Set("[^0-9A-Za-z_]".to_owned()),
            's' => Item::Set(r"[\t\n\x0C\r ]".to_owned()),
            'S' => Item::Set(r"[^\t\n\x0C\r ]".to_owned()),
            'p' | 'P' => Item::Set(self.property(c)?),
            'a' => Item::One('\x07'),
            'f' => Item::One('\x0c'),
            'n' => Item::One('\n'),
            'r' => Item::One('\r'),
            't' => Item::One('\t'),
            'v' => Item::One('\x0b'),
            'x' => Item::One(self.hexadecimal()?),
            '0'..='7' => Item::One(self.octal(c)?),
            _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Item::One(c),
            _ => return Err(wrong(format!(r"there is no escape `\{c}`"))),
        })
    }

    /// `\pN` or `\p{Greek}`; Go knows no `\p{script=Greek}`.
    fn property(&mut self, kind: char) -> Result<String, InvalidPattern> {
        let mut set = format!(r"\{kind}");
        if self.rest.peek() == Some(&'{') {
            for c in self.rest.by_ref() {
                set.push(c);
                if c == '}' {
                    break;
                }
            }
        } else {
            set.extend(self.rest.next());
        }
        if set.contains(['=', ':']) { Err(wrong(format!("there is no `{set}`"))) } else { Ok(set) }
    }

    /// `\x41` or `\x{41}`.
    fn hexadecimal(&mut self) -> Result<char, InvalidPattern> {
        let digits: String = if self.rest.next_if_eq(&'{').is_some() {
            self.rest.by_ref().take_while(|c| *c != '}').collect()
        } else {
            self.rest.by_ref().take(2).collect()
        };
        let number = u32::from_str_radix(&digits, 16).ok();
        number.and_then(char::from_u32).ok_or_else(|| wrong(format!(r"`\x{digits}` is no character")))
    }

    /// `\123` and `\0`; `\1` alone would be a reference back, which neither engine has.
    fn octal(&mut self, first: char) -> Result<char, InvalidPattern> {
        let mut digits = String::from(first);
        while digits.len() < 3
            && let Some(digit) = self.rest.next_if(|c| matches!(c, '0'..='7'))
        {
            digits.push(digit);
        }
        if first != '0' && digits.len() == 1 {
            return Err(wrong(format!(r"there is no reference back such as `\{first}`")));
        }
        let number = u32::from_str_radix(&digits, 8).ok();
        number.and_then(char::from_u32).ok_or_else(|| wrong(format!(r"`\{digits}` is no character")))
    }

    /// Whether a `{` opens a repetition (`{2}`, `{2,}`, `{2,3}`) or is a brace.
    fn is_repetition(&self) -> Result<bool, InvalidPattern> {
        let mut ahead = self.rest.clone();
        let mut seen = String::new();
        loop {
            match ahead.next() {
                Some('}') => break,
                Some(c) if c.is_ascii_digit() || c == ',' => seen.push(c),
                _ => return Ok(false),
            }
        }
        let (low, high) = seen.split_once(',').unwrap_or((&seen, ""));
        let is_repetition = !low.is_empty() && !high.contains(',');
        let is_too_much = |times: &str| times.len() > 4 || times.parse::<u32>().is_ok_and(|times| times > REPETITIONS_MAX);
        if is_repetition && (is_too_much(low) || is_too_much(high)) {
            return Err(wrong(format!("`{{{seen}}}` is more than {REPETITIONS_MAX} repetitions")));
        }
        Ok(is_repetition)
    }

    /// A `(`, of whose flags Go knows fewer.
    fn group(&mut self) -> Result<(), InvalidPattern> {
        self.out.push('(');
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('?') || matches!(ahead.peek(), Some('P' | '<' | '=' | '!')) {
            return Ok(());
        }
        match ahead.find(|c| !matches!(c, 'i' | 'm' | 's' | 'U' | '-')) {
            Some(':' | ')') => Ok(()),
            other => Err(wrong(format!("there is no group `(?{}`", other.unwrap_or_default()))),
        }
    }

    fn class(&mut self) -> Result<(), InvalidPattern> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.rest.next().ok_or_else(|| wrong("a `[` is never closed"))?;
            let item = match c {
                ']' if !is_first => {
                    self.out.push(']');
                    return Ok(());
                }
                '[' => self.named_class().map_or(Item::One('['), Item::Set),
                '\\' => self.escaped()?,
                _ => Item::One(c),
            };
            is_first = false;
            match item {
                Item::Set(set) => self.out.push_str(&set),
                Item::One(low) => self.range(low)?,
            }
        }
    }

    /// `low` alone, or with the `-high` that follows.
    fn range(&mut self, low: char) -> Result<(), InvalidPattern> {
        push_literal(&mut self.out, low);
        let mut ahead = self.rest.clone();
        if ahead.next() != Some('-') || matches!(ahead.next(), None | Some(']')) {
            return Ok(());
        }
        self.rest.next();
        let high = match self.rest.next() {
            Some('\\') => match self.escaped()? {
                Item::One(high) => high,
                Item::Set(set) => return Err(wrong(format!("a range cannot end in `{set}`"))),
            },
            Some(high) => high,
            None => return Err(wrong("a `[` is never closed")),
        };
        self.out.push('-');
        push_literal(&mut self.out, high);
        Ok(())
    }

    /// `[:alpha:]` after its `[`; nothing is taken when there is none.
    fn named_class(&mut self) -> Option<String> {
        let mut ahead = self.rest.clone();
        if ahead.next() != Some(':') {
            return None;
        }
        let mut name = String::from("[:");
        loop {
            match ahead.next()? {
                ':' => break,
                c if c.is_ascii_alphabetic() || c == '^' => name.push(c),
                _ => return None,
            }
        }
        if ahead.next() != Some(']') {
            return None;
        }
        name.push_str(":]");
        self.rest = ahead;
        Some(name)
    }
}

fn push_literal(out: &mut String, c: char) {
    if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
        out.push('\\');
    }
    out.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(compile(pattern).unwrap().is_match(text), expected, "{pattern} on {text}");
    }

    #[test]
    fn classes_know_ascii_only() {
        check(r"^/\w$", "/é", false);
        check(r"^/\W$", "/é", true);
        check(r"^/\d$", "/\u{661}", false);
        check(r"^/[\d]$", "/5", true);
        check(r"^/[^\d]$", "/\u{661}", true);
        check(r"^/\s$", "/\u{a0}", false);
        check(r"^/\s$", "/\u{b}", false);
        check(r"^/\S$", "/\u{b}", true);
        check(r"^/a\b", "/aé", true);
        check(r"^/a\B", "/aé", false);
        check(r"^/(?i)É$", "/é", true);
        check(r"^/[^a]$", "/é", true);
        check(r"^/\p{Greek}\pN$", "/α1", true);
        check(r"^/[[:alpha:][:^word:]]+$", "/a-", true);
    }

    #[test]
    fn braces_are_braces_unless_they_repeat() {
        check(r"a{", "a{", true);
        check(r"^a{2}$", "aa", true);
        check(r"^a{1,}$", "aaa", true);
        check(r"^a{1,2}$", "aaa", false);
        check(r"a{,3}$", "a{,3}", true);
        check(r"{n:[a-z]+}.test", "a.test", false);
        check(r"^a}$", "a}", true);
        check(r"^a{1,2,3}$", "a{1,2,3}", true);
    }

    #[test]
    fn classes_have_no_operators() {
        check(r"^[[a]$", "[", true);
        check(r"^[a&&b]$", "&", true);
        check(r"^[a~~b]$", "~", true);
        check(r"^[]a]$", "]", true);
        check(r"^[^]a]$", "]", false);
        check(r"^[a-]$", "-", true);
        check(r"^[+--]$", ",", true);
        check(r"^[\--/]$", ".", true);
        check(r"^[a-c\x41-C]+$", "bB", true);
    }

    #[test]
    fn escapes_mean_what_they_mean_in_go() {
        check(r"\<a", "<a", true);
        check(r"^\Qa.b\E.$", "a.bc", true);
        check(r"^\Qa.b", "axb", false);
        check(r"^\101\x{42}\x43$", "ABC", true);
        check(r"^a\/\-\_\ \'$", "a/-_ '", true);
        check(r"\b{start}", "a{start}", true);
        check(r"^a$", "a\n", false);
        check(r"^.$", "\n", false);
        check(r"^(?P<x>a)(?<y>b)(?:c)(?i:D)(?U)e+", "abcde", true);
        check(r"^a{1,1000}?b*?c??$", "abc", true);
    }

    #[test]
    fn what_go_refuses_is_refused() {
        let cases =
            [r"[", r"(?=a)", r"\C", r"a\Z", r"\h", r"\u0041", r"\8", r"\1", r"(?x) a", r"(?u)a", r"[a-\d]", r"[a--b]", r"\G"];
        let repeated = [r"a**", r"a*+", r"a*??", r"a{2}{3}", r"a{1001}", r"\d{1,2000}", r"\p{script=Greek}"];
        for pattern in cases.into_iter().chain(repeated) {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
        let error = compile("(a").unwrap_err().to_string();
        assert_eq!(error, "the regular expression cannot be used: unclosed group");
        assert_eq!(compile("[a").unwrap_err().to_string(), "the regular expression cannot be used: a `[` is never closed");
    }
}
