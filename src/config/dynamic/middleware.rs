//! `http.middlewares.*`.

use std::path::PathBuf;

use regex::Regex;

use super::decode::Unusable;
use super::shape::{asked, block, place_of, switch, texts};
use super::{MiddlewareKind, unsupported};
use crate::config::node::Fields;
use crate::config::problem::{Problem, Problems};

/// Traefik's encodings, in its order of preference.
const ENCODINGS: [&str; 3] = ["gzip", "br", "zstd"];

/// Traefik's `compress.minResponseBodyBytes`.
const COMPRESS_BODY_BYTES_MIN: usize = 1024;

/// Options of `headers` that we do not know yet. They protect somebody, so the middleware must not do without them.
const HEADERS_NOT_YET: [&str; 30] = [
    "accessControlAllowCredentials",
    "accessControlAllowHeaders",
    "accessControlAllowMethods",
    "accessControlAllowOriginList",
    "accessControlAllowOriginListRegex",
    "accessControlExposeHeaders",
    "accessControlMaxAge",
    "addVaryHeader",
    "allowedHosts",
    "hostsProxyHeaders",
    "sslProxyHeaders",
    "stsSeconds",
    "stsIncludeSubdomains",
    "stsPreload",
    "forceSTSHeader",
    "frameDeny",
    "customFrameOptionsValue",
    "contentTypeNosniff",
    "browserXssFilter",
    "customBrowserXSSValue",
    "contentSecurityPolicy",
    "contentSecurityPolicyReportOnly",
    "publicKey",
    "referrerPolicy",
    "permissionsPolicy",
    "featurePolicy",
    "sslRedirect",
    "sslTemporaryRedirect",
    "sslHost",
    "sslForceHost",
];

type Read = Result<MiddlewareKind, Unusable>;

/// Reads the options of one kind.
type Reader = fn(&mut Fields<'_>, &mut Problems) -> Read;

/// Reads one middleware, which is of exactly one kind.
pub(super) fn read(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let kinds: [(&'static str, Reader); 7] = [
        ("addPrefix", add_prefix),
        ("basicAuth", basic_auth),
        ("chain", chain),
        ("headers", headers),
        ("redirectRegex", redirect_regex),
        ("redirectScheme", redirect_scheme),
        ("stripPrefix", strip_prefix),
    ];
    let mut found = Vec::new();
    for (kind, read) in kinds {
        if let Some(mut options) = block(fields, kind, problems) {
            found.push(read(&mut options, problems));
            options.finish(problems);
        }
    }
    if let Some(mut options) = switch(fields, "compress") {
        found.push(compress(&mut options, problems));
        options.finish(problems);
    }
    for (kind, keys) in unsupported::MIDDLEWARES {
        let path = fields.path(kind);
        if let Some(node) = fields.get(kind).filter(|node| !node.is_empty()) {
            unsupported::check(node, &path, keys, problems);
            found.push(Err(format!("`{kind}` is not supported yet")));
        }
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(kind), None) => kind,
        (None, _) => Err("it is of no kind".to_owned()),
        (Some(_), Some(_)) => Err("it is of several kinds at once, which wants several middlewares and a `chain`".to_owned()),
    }
}

fn add_prefix(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    match fields.string("prefix", problems).unwrap_or_default() {
        prefix if prefix.is_empty() => Err("`addPrefix` has no prefix".to_owned()),
        prefix => Ok(MiddlewareKind::AddPrefix { prefix }),
    }
}

fn basic_auth(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let users = fields.strings("users", problems).unwrap_or_default();
    let users_file = fields.string("usersFile", problems).filter(|path| !path.is_empty()).map(PathBuf::from);
    let realm = fields.string("realm", problems).filter(|realm| !realm.is_empty()).unwrap_or_else(|| "traefik".to_owned());
    let header_field = fields.string("headerField", problems).filter(|name| !name.is_empty());
    let remove_header = fields.bool("removeHeader", problems).unwrap_or(false);
    if users.is_empty() && users_file.is_none() {
        return Err("`basicAuth` has no users".to_owned());
    }
    for (index, user) in users.iter().enumerate() {
        let Some((name, hash)) = user.split_once(':') else {
            return Err(format!("user {} of `basicAuth` is not `name:hash`", index + 1));
        };
        if hash.starts_with("$$") {
            let message = format!("the hash of user `{name}` starts with `$$`, so that no password fits it");
            let hint = "compose files double `$`, tags and files do not";
            problems.push(Problem::warning(place_of(fields, "users"), message).hint(hint));
        }
    }
    Ok(MiddlewareKind::BasicAuth { users, users_file, realm, header_field, remove_header })
}

fn chain(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    Ok(MiddlewareKind::Chain { middlewares: fields.strings("middlewares", problems).unwrap_or_default() })
}

fn compress(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let all = || ENCODINGS.iter().map(|&encoding| encoding.to_owned()).collect();
    let encodings: Vec<String> = fields.strings("encodings", problems).unwrap_or_else(all);
    let excluded = fields.strings("excludedContentTypes", problems).unwrap_or_default();
    let included = fields.strings("includedContentTypes", problems).unwrap_or_default();
    let body_bytes_min: Option<usize> = fields.parsed("minResponseBodyBytes", "a whole number from 0", problems);
    let default_encoding = fields.string("defaultEncoding", problems).filter(|encoding| !encoding.is_empty());
    if !excluded.is_empty() && !included.is_empty() {
        return Err("`compress` has both `excludedContentTypes` and `includedContentTypes`".to_owned());
    }
    if encodings.is_empty() {
        return Err("`compress.encodings` is empty".to_owned());
    }
    if let Some(unknown) = encodings.iter().find(|encoding| !ENCODINGS.contains(&encoding.as_str())) {
        return Err(format!("`compress.encodings` has `{unknown}`, but wants {}", ENCODINGS.join(", ")));
    }
    if let Some(default) = default_encoding.as_ref().filter(|default| !encodings.contains(default)) {
        return Err(format!("`compress.defaultEncoding` is `{default}`, which is not one of its encodings"));
    }
    // As in Traefik 0 means the default.
    let body_bytes_min = body_bytes_min.filter(|bytes| *bytes != 0).unwrap_or(COMPRESS_BODY_BYTES_MIN);
    Ok(MiddlewareKind::Compress { encodings, body_bytes_min, excluded, included, default_encoding })
}

fn headers(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let request = texts(fields, "customRequestHeaders", problems);
    let response = texts(fields, "customResponseHeaders", problems);
    // It only says that the others are not to be taken seriously.
    fields.bool("isDevelopment", problems);
    match asked(fields, &HEADERS_NOT_YET) {
        Some(path) => Err(format!("`{path}` is not supported yet")),
        None => Ok(MiddlewareKind::Headers { request, response }),
    }
}

fn redirect_regex(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let regex = fields.string("regex", problems).unwrap_or_default();
    let replacement = fields.string("replacement", problems).unwrap_or_default();
    let permanent = fields.bool("permanent", problems).unwrap_or(false);
    if replacement.contains("$$") {
        let hint = "compose files double `$`, tags and files do not";
        problems
            .push(Problem::warning(&fields.node().at, "`redirectRegex.replacement` has `$$`, which stays one `$`").hint(hint));
    }
    if regex.is_empty() {
        return Err("`redirectRegex` has no regex".to_owned());
    }
    match Regex::new(&regex) {
        Ok(_) => Ok(MiddlewareKind::RedirectRegex { regex, replacement, permanent }),
        Err(error) => Err(format!("`redirectRegex.regex` cannot be read: {}", last_line(&error))),
    }
}

/// The parser draws the pattern first and says what is wrong in its last line.
fn last_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

fn redirect_scheme(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let scheme = fields.string("scheme", problems).unwrap_or_default();
    let port = fields.string("port", problems).filter(|port| !port.is_empty());
    let permanent = fields.bool("permanent", problems).unwrap_or(false);
    // Known, and without effect, as in Traefik.
    fields.bool("forcePermanentRedirect", problems);
    if scheme.is_empty() {
        return Err("`redirectScheme` has no scheme".to_owned());
    }
    Ok(MiddlewareKind::RedirectScheme { scheme, port, permanent })
}

fn strip_prefix(fields: &mut Fields<'_>, problems: &mut Problems) -> Read {
    let prefixes = fields.strings("prefixes", problems).unwrap_or_default();
    if fields.bool("forceSlash", problems) == Some(false) {
        let message = "`stripPrefix.forceSlash` is ignored: what is left always starts with `/`";
        problems.push(Problem::warning(place_of(fields, "forceSlash"), message));
    }
    Ok(MiddlewareKind::StripPrefix { prefixes })
}
