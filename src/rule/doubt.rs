//! What Traefik takes without a word although it can match nothing, or hardly what was meant.

use super::Call;

/// A sentence for each doubt about one matcher.
pub(super) fn about(call: &Call) -> Option<String> {
    let name = call.name;
    let written = call.first().text;
    match name {
        "HostRegexp" | "HostSNIRegexp" | "PathRegexp" | "Path" | "PathPrefix" | "Host" => {
            if let Some(pattern) = from_v2(&written, name == "PathPrefix") {
                let regexp = match name {
                    "Host" => "HostRegexp",
                    "Path" | "PathPrefix" => "PathRegexp",
                    other => other,
                };
                return Some(format!(
                    "{name}(`{written}`) is the spelling of v2 and matches nothing; in v3 it is {regexp}(`{pattern}`)"
                ));
            }
            (name == "Host").then(|| host(&written)).flatten()
        }
        "Query" if call.args.len() == 1 => {
            let (key, value) = written.split_once('=')?;
            Some(format!("Query(`{written}`) asks for a key with `=` in it; in v3 it is Query(`{key}`, `{value}`)"))
        }
        _ => None,
    }
}

fn host(written: &str) -> Option<String> {
    let bare = written.rsplit("://").next().unwrap_or(written);
    let bare = bare.split('/').next().unwrap_or(bare);
    let bare = match bare.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || name.ends_with(']') => name,
        _ => bare,
    };
    let bare = bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(bare);
    (bare != written)
        .then(|| format!("Host(`{written}`) matches nothing, a host has no scheme, port, path or brackets; write Host(`{bare}`)"))
}

/// v2's `{name:regexp}` and `{name}` as a regular expression of today; `None` if there is none in it.
fn from_v2(written: &str, is_prefix: bool) -> Option<String> {
    let mut pattern = String::from("^");
    let mut rest = written;
    let mut is_v2 = false;
    while let Some((before, after)) = rest.split_once('{') {
        let (inside, behind) = closing(after)?;
        let (name, regexp) = inside.split_once(':').unwrap_or((inside, "[^/.]+"));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            return None;
        }
        // A name is no number: `{2}` and `{2,3}` are repetitions.
        if !name.bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return None;
        }
        is_v2 = true;
        pattern.push_str(&regex::escape(before));
        pattern.push_str(regexp);
        rest = behind;
    }
    pattern.push_str(&regex::escape(rest));
    if !is_prefix {
        pattern.push('$');
    }
    is_v2.then_some(pattern)
}

/// Splits what follows a `{` at the `}` that closes it.
fn closing(text: &str) -> Option<(&str, &str)> {
    let mut open = 1;
    let end = text.find(|c| {
        open += i32::from(c == '{') - i32::from(c == '}');
        open == 0
    })?;
    Some((text.get(..end)?, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[track_caller]
    fn check(rule: &str, expected: &[&str]) {
        assert_eq!(parse(rule).unwrap().doubts(), expected, "{rule}");
    }

    #[test]
    fn the_regular_expressions_of_v2_are_told_apart() {
        check(
            "HostRegexp(`{sub:[a-z]{2,3}}.a.test`)",
            &[
                "HostRegexp(`{sub:[a-z]{2,3}}.a.test`) is the spelling of v2 and matches nothing; in v3 it is HostRegexp(`^[a-z]{2,3}\\.a\\.test$`)",
            ],
        );
        check(
            "PathPrefix(`/job/{job}`)",
            &["PathPrefix(`/job/{job}`) is the spelling of v2 and matches nothing; in v3 it is PathRegexp(`^/job/[^/.]+`)"],
        );
        check("HostRegexp(`^[a-z]{2}\\.test$`)", &[]);
        check("PathRegexp(`^/[0-9]{2,}`)", &[]);
    }

    #[test]
    fn hosts_that_can_never_be_asked_for_are_told() {
        let tell = |written: &str, right: &str| {
            format!("Host(`{written}`) matches nothing, a host has no scheme, port, path or brackets; write Host(`{right}`)")
        };
        check("Host(`a.test:80`)", &[&tell("a.test:80", "a.test")]);
        check("!Host(`https://a.test/x`)", &[&tell("https://a.test/x", "a.test")]);
        check("Host(`[::1]`)", &[&tell("[::1]", "::1")]);
        check("Host(`::1`) || Host(`a.test`)", &[]);
        check("Query(`a=b`)", &["Query(`a=b`) asks for a key with `=` in it; in v3 it is Query(`a`, `b`)"]);
    }
}
