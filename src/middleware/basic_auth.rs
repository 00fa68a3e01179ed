//! basicAuth: lets in who knows a password (RFC 7617), by htpasswd's hashes.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use sha1::{Digest, Sha1};

use super::htpasswd::Secret;
use super::{Answer, InvalidMiddleware, RequestView, Step, header_name, header_value};

/// How many pairs of user and password that were right are remembered; the next one starts anew.
const REMEMBERED_MAX: usize = 256;

/// Standard base64 that minds its padding but not its last bits, as Go's.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Lets in who knows a password.
pub struct BasicAuth {
    users: BTreeMap<String, User>,
    /// What a password is checked against when nobody has that name, so that time does not tell whether somebody has.
    nobody: Secret,
    challenge: HeaderValue,
    header_field: Option<HeaderName>,
    removes_header: bool,
    remembered: Remembered,
}

struct User {
    secret: Secret,
    /// The name as `headerField` carries it.
    value: HeaderValue,
}

impl std::fmt::Debug for BasicAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BasicAuth").field("users", &self.users.keys()).finish_non_exhaustive()
    }
}

impl BasicAuth {
    /// `users` are `name:hash`; `file` is the text of a users file, one a line, whose users the listed ones override.
    pub fn compile(
        users: &[String],
        file: &str,
        realm: &str,
        header_field: Option<&str>,
        removes_header: bool,
    ) -> Result<Self, InvalidMiddleware> {
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut known = BTreeMap::new();
        for entry in lines.chain(users.iter().map(String::as_str)) {
            let (name, secret) = entry
                .split_once(':')
                .filter(|(_, secret)| !secret.contains(':'))
                .ok_or_else(|| InvalidMiddleware::User(entry.to_owned()))?;
            known.insert(name.to_owned(), User { secret: Secret::parse(secret), value: header_value(name, name)? });
        }
        let Some(nobody) = known.values().next().map(|user| user.secret.clone()) else {
            return Err(InvalidMiddleware::NoUsers(String::new()));
        };
        let realm = if realm.is_empty() { "traefik" } else { realm };
        Ok(Self {
            users: known,
            nobody,
            challenge: header_value("WWW-Authenticate", &format!("Basic realm=\"{realm}\""))?,
            header_field: header_field.filter(|name| !name.is_empty()).map(header_name).transpose()?,
            removes_header,
            remembered: Remembered::default(),
        })
    }

    /// Answers 401 unless name and password are right. Sets the request's user either way, as Traefik logs it.
    pub fn on_request(&self, request: &mut RequestView<'_>) -> Step {
        let credentials = Credentials::parse(request.headers);
        request.user = Some(credentials.as_ref().map(Credentials::name).unwrap_or_default());
        let Some(user) = credentials.and_then(|credentials| self.check(&credentials)) else {
            return Step::Answer(self.refusal());
        };
        if let Some(field) = &self.header_field {
            request.headers.insert(field, user.value.clone());
        }
        if self.removes_header {
            request.headers.remove(AUTHORIZATION);
        }
        Step::Next
    }

    /// Whether [`Self::on_request`] would have to compute for milliseconds: a password it has not seen, and a bcrypt hash.
    pub fn is_slow_for(&self, headers: &HeaderMap) -> bool {
        Credentials::parse(headers).is_some_and(|credentials| {
            let secret = self.find(&credentials).map_or(&self.nobody, |user| &user.secret);
            secret.is_slow() && !self.remembered.has(&self.remembered.fingerprint(&credentials))
        })
    }

    fn find(&self, credentials: &Credentials) -> Option<&User> {
        self.users.get(std::str::from_utf8(&credentials.user).ok()?)
    }

    fn check(&self, credentials: &Credentials) -> Option<&User> {
        let Some(user) = self.find(credentials) else {
            self.nobody.matches(&credentials.password);
            return None;
        };
        let fingerprint = self.remembered.fingerprint(credentials);
        if self.remembered.has(&fingerprint) {
            return Some(user);
        }
        let is_right = user.secret.matches(&credentials.password);
        if is_right {
            self.remembered.add(fingerprint);
        }
        is_right.then_some(user)
    }

    fn refusal(&self) -> Answer {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(WWW_AUTHENTICATE, self.challenge.clone());
        Answer { status: StatusCode::UNAUTHORIZED, headers, body: Bytes::from_static(b"401 Unauthorized\n") }
    }
}

/// What a client says it is.
struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl Credentials {
    /// From `Authorization: Basic base64(user:password)`.
    fn parse(headers: &HeaderMap) -> Option<Self> {
        const SCHEME: &str = "Basic ";
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, encoded) = value.split_at_checked(SCHEME.len())?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return None;
        }
        let decoded = BASE64.decode(encoded).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let (user, password) = decoded.split_at_checked(colon)?;
        Some(Self { user: user.to_vec(), password: password.get(1..)?.to_vec() })
    }

    fn name(&self) -> String {
        String::from_utf8_lossy(&self.user).into_owned()
    }
}

/// Fingerprints of pairs that were right: bcrypt is made to be slow, and browsers send the same pair with every request.
/// A fingerprint is worth nothing outside this process, for it is made with a key drawn at start.
struct Remembered {
    key: [u64; 2],
    fingerprints: ArcSwap<HashSet<Fingerprint>>,
}

type Fingerprint = [u8; 20];

impl Default for Remembered {
    fn default() -> Self {
        let random = RandomState::new();
        Self { key: [random.hash_one(0), random.hash_one(1)], fingerprints: ArcSwap::default() }
    }
}

impl Remembered {
    fn fingerprint(&self, credentials: &Credentials) -> Fingerprint {
        let mut digest = Sha1::new();
        for part in self.key {
            digest.update(part.to_le_bytes());
        }
        digest.update((credentials.user.len() as u64).to_le_bytes());
        digest.update(&credentials.user);
        digest.update(&credentials.password);
        digest.finalize().into()
    }

    fn has(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprints.load().contains(fingerprint)
    }

    fn add(&self, fingerprint: Fingerprint) {
        self.fingerprints.rcu(|known| {
            let mut known = if known.len() < REMEMBERED_MAX { HashSet::clone(known) } else { HashSet::new() };
            known.insert(fingerprint);
            Arc::new(known)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use http::Method;

    use super::*;
    use crate::middleware::testing::view;

    const APR1: &str = "u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/";

    fn compile(users: &[&str], file: &str) -> BasicAuth {
        let users: Vec<String> = users.iter().map(|&user| user.to_owned()).collect();
        BasicAuth::compile(&users, file, "", Some("X-User"), true).unwrap()
    }

    fn basic(pair: &str) -> String {
        format!("Basic {}", BASE64.encode(pair))
    }

    /// Asks with this Authorization and gives the status (200 if let in), the user for the log and X-User.
    fn ask(auth: &BasicAuth, authorization: Option<&str>) -> (u16, String, String) {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value.parse().unwrap());
        }
        let mut request = view(&Method::GET, "ba.test", "/", &mut headers);
        let status = match auth.on_request(&mut request) {
            Step::Next => 200,
            Step::Answer(answer) => answer.status.as_u16(),
        };
        let user = request.user.unwrap();
        if status == 200 {
            assert!(!headers.contains_key(AUTHORIZATION));
        }
        (status, user, headers.get("x-user").map_or(String::new(), |value| value.to_str().unwrap().to_owned()))
    }

    #[track_caller]
    fn check(auth: &BasicAuth, authorization: Option<&str>, expected: (u16, &str, &str)) {
        let (status, user, field) = ask(auth, authorization);
        assert_eq!((status, &*user, &*field), expected, "{authorization:?}");
    }

    #[test]
    fn lets_in_who_knows_the_password() {
        let auth = compile(&[APR1, "s:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "plain:password"], "");
        check(&auth, Some(&basic("u:test")), (200, "u", "u"));
        check(&auth, Some(&basic("u:test")), (200, "u", "u"));
        check(&auth, Some(&basic("u:test").replace("Basic", "bASIC")), (200, "u", "u"));
        check(&auth, Some(&basic("s:password")), (200, "s", "s"));
        check(&auth, Some(&basic("s:test")), (401, "s", ""));
        check(&auth, Some(&basic("u:")), (401, "u", ""));
        check(&auth, Some(&basic("nobody:test")), (401, "nobody", ""));
        check(&auth, Some(&basic("plain:password")), (401, "plain", ""));
    }

    #[test]
    fn logs_an_empty_user_without_credentials() {
        let auth = compile(&[APR1], "");
        for authorization in [None, Some("Bearer x"), Some("Basic"), Some("Basic !"), Some(&*basic("nocolon"))] {
            check(&auth, authorization, (401, "", ""));
        }
    }

    #[test]
    fn reads_a_users_file_whose_users_the_list_overrides() {
        let auth = compile(&["s:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="], &format!("# people\n\n {APR1} \ns:other\n"));
        check(&auth, Some(&basic("u:test")), (200, "u", "u"));
        check(&auth, Some(&basic("s:password")), (200, "s", "s"));
    }

    #[test]
    fn refuses_as_traefik_does() {
        let auth = BasicAuth::compile(&[APR1.to_owned()], "", "my \"r\"", None, false).unwrap();
        let mut headers = HeaderMap::new();
        let mut request = view(&Method::GET, "ba.test", "/", &mut headers);
        request.host = Cow::Borrowed("x");
        let Step::Answer(answer) = auth.on_request(&mut request) else { panic!("let in") };
        assert_eq!(answer.body, "401 Unauthorized\n");
        assert_eq!(answer.headers[WWW_AUTHENTICATE], "Basic realm=\"my \"r\"\"");
        assert_eq!(answer.headers[CONTENT_TYPE], "text/plain");
        assert_eq!(answer.headers.len(), 2);
    }

    #[test]
    fn computes_bcrypt_once_for_each_password_that_was_right() {
        let auth = compile(&[&format!("b:{}", bcrypt::hash("s3cret", 4).unwrap())], "");
        let headers = |pair: &str| HeaderMap::from_iter([(AUTHORIZATION, basic(pair).parse().unwrap())]);
        assert!(auth.is_slow_for(&headers("b:s3cret")));
        check(&auth, Some(&basic("b:s3cret")), (200, "b", "b"));
        assert!(!auth.is_slow_for(&headers("b:s3cret")));
        assert!(auth.is_slow_for(&headers("b:wrong")));
        check(&auth, Some(&basic("b:wrong")), (401, "b", ""));
        assert!(auth.is_slow_for(&headers("b:wrong")));
        assert!(auth.is_slow_for(&headers("nobody:s3cret")), "time must not tell who exists");
    }

    #[test]
    fn remembers_a_bounded_number() {
        let remembered = Remembered::default();
        for n in 0..=REMEMBERED_MAX {
            remembered.add(remembered.fingerprint(&Credentials { user: n.to_string().into_bytes(), password: Vec::new() }));
        }
        assert_eq!(remembered.fingerprints.load().len(), 1);
    }
}
