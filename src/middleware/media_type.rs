//! Media types as Go's `mime.ParseMediaType` reads them: `text/html; charset=utf-8` is `text/html`.

/// The type and subtype in lower case. `None` if it, or one of its parameters, is malformed.
pub(super) fn parse(value: &str) -> Option<String> {
    let (name, mut parameters) = value.split_at(value.find(';').unwrap_or(value.len()));
    let name = name.trim();
    let is_sound = match name.split_once('/') {
        Some((kind, subtype)) => is_token(kind) && is_token(subtype),
        None => is_token(name),
    };
    if !is_sound {
        return None;
    }
    loop {
        parameters = parameters.trim_start();
        if parameters.is_empty() || parameters.trim_end() == ";" {
            return Some(name.to_ascii_lowercase());
        }
        parameters = after_parameter(parameters)?;
    }
}

/// What follows one `; name=value`.
fn after_parameter(text: &str) -> Option<&str> {
    let text = text.strip_prefix(';')?.trim_start();
    let (name, value) = text.split_at(text.find(|letter| !is_token_letter(letter))?);
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    if name.is_empty() {
        return None;
    }
    let Some(quoted) = value.strip_prefix('"') else {
        let length = value.find(|letter| !is_token_letter(letter)).unwrap_or(value.len());
        return if length == 0 { None } else { value.get(length..) };
    };
    let mut is_escaped = false;
    let end = quoted.find(|letter| {
        let ends = letter == '"' && !is_escaped;
        is_escaped = letter == '\\' && !is_escaped;
        ends
    })?;
    quoted.get(end + 1..)
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_letter)
}

/// RFC 9110, 5.6.2.
fn is_token_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (value, expected) in [
            ("text/HTML", Some("text/html")),
            (" text/html ; charset=utf-8", Some("text/html")),
            ("text/html;charset=\"a\\\"b;c\"; q=1;", Some("text/html")),
            ("text", Some("text")),
            ("text/html;", Some("text/html")),
            (";;bad", None),
            ("", None),
            ("text/", None),
            ("text/html; charset", None),
            ("text/html; charset=", None),
            ("text/html; charset=\"a", None),
            ("text/html, text/css", None),
        ] {
            assert_eq!(parse(value).as_deref(), expected, "{value}");
        }
    }
}
