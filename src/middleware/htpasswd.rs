//! Passwords as htpasswd keeps them: bcrypt, SHA-1, and the MD5 kind (`$apr1$`, `$1$`). Plain ones never match, as in Traefik.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha1::Sha1;

/// What a password is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Secret {
    /// `$2a$`, `$2b$`, `$2x$` or `$2y$`.
    Bcrypt(String),
    /// Base64 of the digest.
    Sha1(String),
    /// The whole text `$magic$salt$hash`.
    Md5 { text: String, magic: String, salt: String },
    /// Nothing that a password could match.
    Unusable,
}

impl Secret {
    /// Every text is a secret; one of no known kind is unusable.
    pub(super) fn parse(text: &str) -> Self {
        if let Some(digest) = text.strip_prefix("{SHA}") {
            return Self::Sha1(digest.to_owned());
        }
        if ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| text.starts_with(prefix)) {
            return Self::Bcrypt(text.to_owned());
        }
        match text.splitn(4, '$').collect::<Vec<_>>().as_slice() {
            ["", magic, salt, _] => Self::Md5 { text: text.to_owned(), magic: format!("${magic}$"), salt: (*salt).to_owned() },
            _ => Self::Unusable,
        }
    }

    /// Whether checking takes milliseconds.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self, Self::Bcrypt(_))
    }

    /// Whether this is the password. Takes the same time whatever is wrong with it.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            Self::Sha1(digest) => is_same(digest.as_bytes(), STANDARD.encode(Sha1::digest(password)).as_bytes()),
            Self::Md5 { text, magic, salt } => is_same(text.as_bytes(), md5_crypt(password, magic, salt).as_bytes()),
            Self::Unusable => false,
        }
    }
}

/// Compares without saying by its time where two texts differ.
pub(super) fn is_same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && black_box(left.iter().zip(right).fold(0, |differences, (l, r)| differences | (l ^ r))) == 0
}

/// Poul-Henning Kamp's MD5 crypt; Apache's kind differs in its magic only.
fn md5_crypt(password: &[u8], magic: &str, salt: &str) -> String {
    let salt = salt.as_bytes();
    let alternate = Md5::new().chain_update(password).chain_update(salt).chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password).chain_update(magic).chain_update(salt);
    for part in password.chunks(alternate.len()) {
        first.update(alternate.get(..part.len()).unwrap_or_default());
    }
    let mut length = password.len();
    while length > 0 {
        first.update(if length & 1 == 1 { &[0][..] } else { password.get(..1).unwrap_or_default() });
        length >>= 1;
    }
    let mut digest = first.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        next.update(if round % 2 == 1 { password } else { &digest });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if round % 2 == 1 { &digest[..] } else { password });
        digest = next.finalize();
    }
    format!("{magic}{}${}", String::from_utf8_lossy(salt), print_digest(digest.into()))
}

/// The digest in crypt's own order of bytes and its own base 64.
fn print_digest(d: [u8; 16]) -> String {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let groups = [(d[0], d[6], d[12]), (d[1], d[7], d[13]), (d[2], d[8], d[14]), (d[3], d[9], d[15]), (d[4], d[10], d[5])];
    let digits = |value: u32, count: u32| (0..count).map(move |place| char::from(DIGITS[(value >> (6 * place) & 63) as usize]));
    let join = |(a, b, c): (u8, u8, u8)| u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
    groups.into_iter().map(join).flat_map(|value| digits(value, 4)).chain(digits(u32::from(d[11]), 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(secret: &str, password: &str, expected: bool) {
        assert_eq!(Secret::parse(secret).matches(password.as_bytes()), expected, "{secret} {password}");
    }

    #[test]
    fn knows_htpasswd_s_hashes() {
        // From Apache's and Traefik's documentation.
        check("$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "test", true);
        check("$apr1$d9hr9HBB$4HxwgUir3HP4EsggP/QNo0", "test2", true);
        check("$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "test2", false);
        check("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password", true);
        check("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "Password", false);
        check("$1$salt$qJH7.N4xYta3aEG/dfqo/0", "password", true);
        let hash = bcrypt::hash("s3cret", 4).unwrap();
        check(&hash, "s3cret", true);
        check(&hash.replace("$2b$", "$2y$"), "s3cret", true);
        check(&hash, "secret", false);
    }

    #[test]
    fn plain_and_broken_secrets_match_nothing() {
        for secret in ["password", "", "$apr1$x", "$2y$05$short", "{SHA}"] {
            check(secret, "password", false);
            check(secret, "", false);
        }
    }

    #[test]
    fn long_and_empty_passwords_have_an_md5_hash() {
        for password in ["", "a", &"x".repeat(100)] {
            let text = md5_crypt(password.as_bytes(), "$apr1$", "saltsalt");
            check(&text, password, true);
        }
    }
}
