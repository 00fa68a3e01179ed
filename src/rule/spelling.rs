//! Sentences of help for what people really write: misspelt matchers and the spelling of Traefik v1 and v2.

use super::grammar::Known;
use super::{Argument, InvalidRule};
use crate::config::problem::nearest;

/// Matchers of older versions and what they are called now.
const RENAMED: &[(&str, &str)] =
    &[("Headers", "Header"), ("HeadersRegexp", "HeaderRegexp"), ("Methods", "Method"), ("Hosts", "Host"), ("Querys", "Query")];

/// Matchers of v1 that also changed the request.
const STRIPPING: &[(&str, &str)] = &[
    ("PathStrip", "Path"),
    ("PathStripRegex", "PathRegexp"),
    ("PathPrefixStrip", "PathPrefix"),
    ("PathPrefixStripRegex", "PathRegexp"),
];

/// A name that no matcher has.
pub(super) fn unknown(at: usize, written: &str, text: &str, known: &[Known]) -> InvalidRule {
    let wrong = InvalidRule::new(at, format!("there is no matcher `{written}`"));
    if is_v1(text, at + written.len()) {
        return v1(at, written, text);
    }
    if let Some((_, now)) = RENAMED.iter().find(|(old, _)| old.eq_ignore_ascii_case(written)) {
        let usage = known.iter().find(|known| known.name == *now).map(|known| known.usage).unwrap_or_default();
        return wrong.hint(format!("in v3 it is {usage}"));
    }
    if let Some((_, now)) = STRIPPING.iter().find(|(old, _)| old.eq_ignore_ascii_case(written)) {
        return wrong.hint(format!("in v3 it is `{now}` with a stripPrefix middleware"));
    }
    if let Some(same) = known.iter().find(|known| known.name.eq_ignore_ascii_case(written)) {
        return wrong.hint(format!("write `{}`", same.name));
    }
    match nearest(written, known.iter().map(|known| known.name)) {
        Some(name) => wrong.hint(format!("did you mean `{name}`?")),
        None => {
            let names: Vec<_> = known.iter().map(|known| known.name).collect();
            wrong.hint(format!("there are {}", names.join(", ")))
        }
    }
}

/// A matcher without `(`.
pub(super) fn no_arguments(at: usize, known: &Known, text: &str) -> InvalidRule {
    if is_v1(text, at) {
        v1(at, known.name, text)
    } else {
        InvalidRule::new(at, format!("`{}` wants its arguments", known.name)).hint(format!("write {}", known.usage))
    }
}

/// An argument that is not quoted.
pub(super) fn no_quotes(at: usize, rest: &str, known: &Known) -> InvalidRule {
    let quoted = rest.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(inside, _)| inside);
    let bare = rest.split([',', ')']).next().unwrap_or_default().trim();
    let wrong = InvalidRule::new(at, format!("an argument of `{}` stands in back-quotes or double quotes", known.name));
    match quoted.unwrap_or(bare) {
        "" => wrong.hint(format!("write {}", known.usage)),
        argument => wrong.hint(format!("write `{argument}` in back-quotes")),
    }
}

/// Too few or too many arguments. Several values in one matcher are what v2 allowed, and the commonest mistake of all.
pub(super) fn wrong_count(at: usize, known: &Known, args: &[Argument]) -> InvalidRule {
    let Known { name, args_min, args_max, usage } = known;
    let wants = match (args_min, args_max) {
        (1, 1) => "1 argument".to_owned(),
        (min, max) if min == max => format!("{min} arguments"),
        (min, max) => format!("{min} or {max} arguments"),
    };
    let wrong = InvalidRule::new(at, format!("`{name}` takes {wants}, found {}", args.len()));
    if *args_max == 1 && args.len() > 1 {
        let each: Vec<_> = args.iter().map(|arg| format!("{name}(`{}`)", arg.text)).collect();
        wrong.hint(format!("write {}", each.join(" || ")))
    } else {
        wrong.hint(format!("write {usage}"))
    }
}

/// Whether a colon follows, as in v1's `Host:example.com`.
fn is_v1(text: &str, at: usize) -> bool {
    text.get(at..).is_some_and(|rest| rest.trim_start().starts_with(':'))
}

/// v1's `Host:a,b;PathPrefix:/c`, with the whole rule as v3 has it.
fn v1(at: usize, written: &str, text: &str) -> InvalidRule {
    let terms: Vec<_> =
        text.split(';').filter_map(|part| part.split_once(':')).map(|(name, values)| v3(name.trim(), values)).collect();
    let several = terms.len() > 1;
    let terms: Vec<_> =
        terms.into_iter().map(|term| if several && term.contains("||") { format!("({term})") } else { term }).collect();
    InvalidRule::new(at, format!("`{written}:` is the spelling of v1")).hint(format!("in v3 it is {}", terms.join(" && ")))
}

fn v3(name: &str, values: &str) -> String {
    let renamed = RENAMED.iter().chain(STRIPPING).find(|(old, _)| old.eq_ignore_ascii_case(name)).map_or(name, |(_, now)| now);
    let values: Vec<_> = values.split(',').map(str::trim).collect();
    match renamed {
        "Header" | "HeaderRegexp" => format!("{renamed}(`{}`)", values.join("`, `")),
        "Query" => {
            let each: Vec<_> = values.iter().map(|pair| format!("Query(`{}`)", pair.replacen('=', "`, `", 1))).collect();
            each.join(" && ")
        }
        _ => values.iter().map(|value| format!("{renamed}(`{value}`)")).collect::<Vec<_>>().join(" || "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[track_caller]
    fn check(rule: &str, expected: &str) {
        assert_eq!(parse(rule).unwrap_err().to_string(), expected, "{rule}");
    }

    #[test]
    fn a_misspelt_matcher_is_told_the_nearest_one() {
        check("PathPrfix(`/`)", "there is no matcher `PathPrfix` at byte 0 of the rule; did you mean `PathPrefix`?");
        check(
            "Host(`a`) && pathprefx(`/`)",
            "there is no matcher `pathprefx` at byte 13 of the rule; did you mean `PathPrefix`?",
        );
        check("hOst(`a`)", "there is no matcher `hOst` at byte 0 of the rule; write `Host`");
        check(
            "true",
            "there is no matcher `true` at byte 0 of the rule; there are Host, HostRegexp, Path, PathPrefix, PathRegexp, Method, Header, HeaderRegexp, Query, QueryRegexp, ClientIP, HostSNI, HostSNIRegexp, ALPN",
        );
    }

    #[test]
    fn the_spelling_of_v1_is_shown_in_v3() {
        check("Host:a.test", "`Host:` is the spelling of v1 at byte 4 of the rule; in v3 it is Host(`a.test`)");
        check(
            "Host: a.test, b.test;PathPrefixStrip:/x",
            "`Host:` is the spelling of v1 at byte 4 of the rule; in v3 it is (Host(`a.test`) || Host(`b.test`)) && PathPrefix(`/x`)",
        );
        check("PathStrip:/x", "`PathStrip:` is the spelling of v1 at byte 0 of the rule; in v3 it is Path(`/x`)");
        check("Headers:X-A,1", "`Headers:` is the spelling of v1 at byte 0 of the rule; in v3 it is Header(`X-A`, `1`)");
    }

    #[test]
    fn the_spelling_of_v2_is_shown_in_v3() {
        check("Host(`a`, `b`)", "`Host` takes 1 argument, found 2 at byte 0 of the rule; write Host(`a`) || Host(`b`)");
        check("Headers(`a`, `b`)", "there is no matcher `Headers` at byte 0 of the rule; in v3 it is Header(`X-Key`, `value`)");
        check(
            "PathPrefixStrip(`/a`)",
            "there is no matcher `PathPrefixStrip` at byte 0 of the rule; in v3 it is `PathPrefix` with a stripPrefix middleware",
        );
    }

    #[test]
    fn wrong_counts_and_quotes_are_shown_rightly() {
        check("Host()", "`Host` takes 1 argument, found 0 at byte 0 of the rule; write Host(`example.com`)");
        check("Header(`a`)", "`Header` takes 2 arguments, found 1 at byte 0 of the rule; write Header(`X-Key`, `value`)");
        check("Query(`a`,`b`,`c`)", "`Query` takes 1 or 2 arguments, found 3 at byte 0 of the rule; write Query(`key`, `value`)");
        check("Host", "`Host` wants its arguments at byte 4 of the rule; write Host(`example.com`)");
        let quotes = "stands in back-quotes or double quotes at byte 5 of the rule";
        check("Host('a')", &format!("an argument of `Host` {quotes}; write `a` in back-quotes"));
        check("Host(a.test)", &format!("an argument of `Host` {quotes}; write `a.test` in back-quotes"));
        check("Host(", &format!("an argument of `Host` {quotes}; write Host(`example.com`)"));
    }
}
