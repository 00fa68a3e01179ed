//! Query strings as Go reads them: pairs between `&`, `+` is a space, a pair with a broken escape does not count.

use std::borrow::Cow;

use memchr::memchr2;

/// Traefik reads `;` as `&` and sends it on so. Borrowed when there is none.
pub fn normal_query(query: &str) -> Cow<'_, str> {
    if query.contains(';') { Cow::Owned(query.replace(';', "&")) } else { Cow::Borrowed(query) }
}

/// Whether any value of `key` in `query` passes `test`; a key without `=` has the empty value.
pub(super) fn any_value(query: &str, key: &str, mut test: impl FnMut(Encoded<'_>) -> bool) -> bool {
    query.split('&').any(|pair| {
        if pair.is_empty() {
            return false;
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Encoded(name).is(key) && Encoded(value).is_valid() && test(Encoded(value))
    })
}

/// A key or value as it stands in a query.
#[derive(Clone, Copy)]
pub(super) struct Encoded<'q>(&'q str);

impl<'q> Encoded<'q> {
    /// Whether it stands for `plain`. Copies nothing.
    pub(super) fn is(self, plain: &str) -> bool {
        if self.is_plain() {
            return self.0 == plain;
        }
        let mut wanted = plain.bytes();
        for byte in self.bytes() {
            if byte.is_none() || byte != wanted.next() {
                return false;
            }
        }
        wanted.next().is_none()
    }

    /// Its text; copied only if anything in it is encoded. What is not UTF-8 becomes U+FFFD, which `.` matches as in Go.
    pub(super) fn decode(self) -> Cow<'q, str> {
        if self.is_plain() {
            return Cow::Borrowed(self.0);
        }
        let bytes: Vec<u8> = self.bytes().flatten().collect();
        Cow::Owned(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn is_plain(self) -> bool {
        memchr2(b'%', b'+', self.0.as_bytes()).is_none()
    }

    fn is_valid(self) -> bool {
        self.is_plain() || self.bytes().all(|byte| byte.is_some())
    }

    /// Its bytes; `None` for a broken escape, after which nothing is to be relied on.
    fn bytes(self) -> impl Iterator<Item = Option<u8>> + 'q {
        let mut rest = self.0.bytes();
        std::iter::from_fn(move || {
            Some(match rest.next()? {
                b'+' => Some(b' '),
                b'%' => hexadecimal(rest.next(), rest.next()),
                byte => Some(byte),
            })
        })
    }
}

/// The byte of two hexadecimal digits.
pub(super) fn hexadecimal(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high?)? << 4) | digit(low?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_separate_too() {
        assert_eq!(normal_query("c;d=1"), "c&d=1");
        assert!(matches!(normal_query("c&d=1"), Cow::Borrowed(_)));
    }

    #[track_caller]
    fn check(query: &str, expected: &[&str]) {
        let mut values = Vec::new();
        any_value(query, "a", |value| {
            values.push(value.decode().into_owned());
            false
        });
        assert_eq!(values, expected, "{query}");
    }

    #[test]
    fn pairs_are_read_as_go_reads_them() {
        check("", &[]);
        check("a", &[""]);
        check("a=", &[""]);
        check("x=1&a=b&&a=c=d&A=e", &["b", "c=d"]);
        check("%61=%62+c%2B", &["b c+"]);
        check("a=%zz&a=%&a=%4&a=ok", &["ok"]);
        check("%zz=1&a%3Db=1&ab=1&a%=1", &[]);
        check("a=%F0", &["\u{fffd}"]);
    }
}
