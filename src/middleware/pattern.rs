//! Regular expressions as Go reads them, which is what users wrote for Traefik.
//!
//! Both Go and the `regex` crate are of the RE2 family; the few differences are translated: `\d`, `\w`, `\s` and `\b` mean
//! ASCII only, a lone `{` is itself, `[`, `&&`, `--` and `~~` have no meaning inside a class, `\Q..\E` quotes.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use super::InvalidMiddleware;

/// Compiles an expression written for Go.
pub(super) fn compile(expression: &str) -> Result<Regex, InvalidMiddleware> {
    Regex::new(&translate(expression)).map_err(|error| {
        // The crate's message is several lines with a caret below the translated text; its last line says what is wrong.
        let reason = error.to_string();
        let reason = reason.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        InvalidMiddleware::Regex { regex: expression.to_owned(), reason }
    })
}

fn translate(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut letters = expression.chars().peekable();
    let mut is_in_class = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => translate_escape(&mut letters, is_in_class, &mut out),
            '[' if is_in_class && letters.peek() == Some(&':') => out.push('['),
            '[' if is_in_class => out.push_str("\\["),
            '[' => {
                is_in_class = true;
                open_class(&mut letters, &mut out);
            }
            ']' if is_in_class && out.ends_with(':') && is_posix_class(&out) => out.push(']'),
            ']' => {
                is_in_class = false;
                out.push(']');
            }
            '&' | '~' if is_in_class => out.extend(['\\', letter]),
            '-' if is_in_class && letters.peek() == Some(&'-') => out.push_str("\\-"),
            '{' if !is_in_class && !is_repetition(letters.clone()) => out.push_str("\\{"),
            other => out.push(other),
        }
    }
    out
}

/// After `[`: a `^` and a `]` at the very start belong to the class.
fn open_class(letters: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if letters.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    if letters.next_if_eq(&']').is_some() {
        out.push_str("\\]");
    }
}

/// Whether what was written ends in `[:name:`.
fn is_posix_class(out: &str) -> bool {
    out.rfind("[:").and_then(|start| out.get(start + 2..out.len() - 1)).is_some_and(|name| {
        let name = name.strip_prefix('^').unwrap_or(name);
        !name.is_empty() && name.bytes().all(|letter| letter.is_ascii_lowercase())
    })
}

/// Whether `n}`, `n,}` or `n,m}` follows.
fn is_repetition(letters: Peekable<Chars<'_>>) -> bool {
    let inside: String = letters.take_while(|&letter| letter != '}').take(16).collect();
    let (least, most) = inside.split_once(',').unwrap_or((&inside, ""));
    !least.is_empty() && least.chars().chain(most.chars()).all(|digit| digit.is_ascii_digit())
}

fn translate_escape(letters: &mut Peekable<Chars<'_>>, is_in_class: bool, out: &mut String) {
    match letters.next() {
        Some('d') => out.push_str("[0-9]"),
        Some('D') => out.push_str("[^0-9]"),
        Some('w') => out.push_str("[0-9A-Za-z_]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('s') => out.push_str(r"[\t\n\f\r ]"),
        Some('S') => out.push_str(r"[^\t\n\f\r ]"),
        Some('b') if !is_in_class => out.push_str(r"(?-u:\b)"),
        Some('Q') => {
            let rest: String = letters.clone().collect();
            let quoted = rest.split(r"\E").next().unwrap_or_default();
            out.push_str(&regex::escape(quoted));
            let has_end = quoted.len() < rest.len();
            let consumed = quoted.chars().count() + if has_end { 2 } else { 0 };
            letters.by_ref().take(consumed).for_each(drop);
        }
        Some(other) => out.extend(['\\', other]),
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, matches: &[&str], others: &[&str]) {
        let regex = compile(expression).unwrap();
        for text in matches {
            assert!(regex.is_match(text), "{expression} should match {text}");
        }
        for text in others {
            assert!(!regex.is_match(text), "{expression} should not match {text}");
        }
    }

    #[test]
    fn reads_what_go_reads() {
        check(r"^\d+$", &["12"], &["١"]);
        check(r"^[\w.]+$", &["a.b_1"], &["ä"]);
        check(r"^[^\d]$", &["a"], &["1"]);
        check(r"^[[]$", &["["], &["a"]);
        check(r"^[]a]$", &["]", "a"], &["b"]);
        check(r"^[[:alpha:]]+$", &["ab"], &["1"]);
        check(r"^[a&&b]$", &["&", "a", "b"], &["c"]);
        check(r"^/{a}$", &["/{a}"], &["/a"]);
        check(r"^a{2}$", &["aa"], &["a"]);
        check(r"^\Qa.b\E.$", &["a.bc"], &["axbc"]);
        check(r"^(http:\/\/(\[[\w:.]+\]|[\w\._-]+)(:\d+)?)\/$", &["http://a.b:80/", "http://[::1]/"], &["http://a/b"]);
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(compile("(").unwrap_err().to_string(), "the regular expression `(` cannot be used: unclosed group");
        assert!(compile(r"(?=a)").is_err());
    }
}
