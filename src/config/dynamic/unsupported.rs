//! What Traefik knows and we do not yet, as data: enough to tell an option that waits for its turn from a typo.
//!
//! Keys are dotted; `*` stands for a name that the user chooses.

use crate::config::node::{Children, Node};
use crate::config::problem::{Problem, Problems, nearest};

/// Kinds of `http.middlewares` with their options.
pub(super) const MIDDLEWARES: [(&str, &[&str]); 18] = [
    (
        "buffering",
        &["maxRequestBodyBytes", "memRequestBodyBytes", "maxResponseBodyBytes", "memResponseBodyBytes", "retryExpression"],
    ),
    ("circuitBreaker", &["expression", "checkPeriod", "fallbackDuration", "recoveryDuration", "responseCode"]),
    ("contentType", &["autoDetect"]),
    ("digestAuth", &["users", "usersFile", "removeHeader", "realm", "headerField"]),
    (
        "encodedCharacters",
        &[
            "allowEncodedSlash",
            "allowEncodedBackSlash",
            "allowEncodedNullCharacter",
            "allowEncodedSemicolon",
            "allowEncodedPercent",
            "allowEncodedQuestionMark",
            "allowEncodedHash",
        ],
    ),
    ("errors", &["status", "statusRewrites.*", "service", "query", "errorRequestHeaders"]),
    (
        "forwardAuth",
        &[
            "address",
            "tls.ca",
            "tls.cert",
            "tls.key",
            "tls.insecureSkipVerify",
            "tls.caOptional",
            "trustForwardHeader",
            "authResponseHeaders",
            "authResponseHeadersRegex",
            "authRequestHeaders",
            "addAuthCookiesToResponse",
            "headerField",
            "forwardBody",
            "maxBodySize",
            "maxResponseBodySize",
            "preserveLocationHeader",
            "preserveRequestMethod",
            "authSigninURL",
        ],
    ),
    ("grpcWeb", &["allowOrigins"]),
    ("inFlightReq", &["amount", IP_DEPTH, IP_EXCLUDED, IP_SUBNET, BY_HEADER, BY_HOST]),
    ("ipAllowList", &["sourceRange", "ipStrategy.depth", "ipStrategy.excludedIPs", "ipStrategy.ipv6Subnet", "rejectStatusCode"]),
    ("ipWhiteList", &["sourceRange", "ipStrategy.depth", "ipStrategy.excludedIPs", "ipStrategy.ipv6Subnet"]),
    (
        "passTLSClientCert",
        &[
            "pem",
            "info.notAfter",
            "info.notBefore",
            "info.sans",
            "info.serialNumber",
            "info.subject.country",
            "info.subject.province",
            "info.subject.locality",
            "info.subject.organization",
            "info.subject.organizationalUnit",
            "info.subject.commonName",
            "info.subject.serialNumber",
            "info.subject.domainComponent",
            "info.issuer.country",
            "info.issuer.province",
            "info.issuer.locality",
            "info.issuer.organization",
            "info.issuer.commonName",
            "info.issuer.serialNumber",
            "info.issuer.domainComponent",
        ],
    ),
    ("plugin", &["*"]),
    (
        "rateLimit",
        &[
            "average",
            "period",
            "burst",
            IP_DEPTH,
            IP_EXCLUDED,
            IP_SUBNET,
            BY_HEADER,
            BY_HOST,
            "redis.endpoints",
            "redis.tls.ca",
            "redis.tls.cert",
            "redis.tls.key",
            "redis.tls.insecureSkipVerify",
            "redis.username",
            "redis.password",
            "redis.db",
            "redis.poolSize",
            "redis.minIdleConns",
            "redis.maxActiveConns",
            "redis.readTimeout",
            "redis.writeTimeout",
            "redis.dialTimeout",
        ],
    ),
    ("replacePath", &["path"]),
    ("replacePathRegex", &["regex", "replacement"]),
    (
        "retry",
        &[
            "attempts",
            "initialInterval",
            "timeout",
            "status",
            "disableRetryOnNetworkError",
            "retryNonIdempotentMethod",
            "maxRequestBodyBytes",
        ],
    ),
    ("stripPrefixRegex", &["regex"]),
];

const IP_DEPTH: &str = "sourceCriterion.ipStrategy.depth";
const IP_EXCLUDED: &str = "sourceCriterion.ipStrategy.excludedIPs";
const IP_SUBNET: &str = "sourceCriterion.ipStrategy.ipv6Subnet";
const BY_HEADER: &str = "sourceCriterion.requestHeaderName";
const BY_HOST: &str = "sourceCriterion.requestHost";

/// Kinds of `http.services` with their options.
pub(super) const SERVICES: [(&str, &[&str]); 3] = [
    ("failover", &["service", "fallback", "healthCheck", "errors.status", "errors.maxRequestBodyBytes"]),
    ("highestRandomWeight", &["services.name", "services.weight", "healthCheck"]),
    ("mirroring", &["service", "mirrorBody", "maxBodySize", "mirrors.name", "mirrors.percent", "healthCheck"]),
];

/// `sticky` of a load balancer.
pub(super) const STICKY: [&str; 7] =
    ["cookie.name", "cookie.secure", "cookie.httpOnly", "cookie.sameSite", "cookie.maxAge", "cookie.path", "cookie.domain"];

/// Kinds of `tcp.middlewares` with their options.
pub(super) const TCP_MIDDLEWARES: [(&str, &[&str]); 3] =
    [("inFlightConn", &["amount"]), ("ipAllowList", &["sourceRange"]), ("ipWhiteList", &["sourceRange"])];

/// Options of `tcp.serversTransports`.
pub(super) const TCP_TRANSPORT: [&str; 11] = [
    "dialKeepAlive",
    "dialTimeout",
    "proxyProtocol.version",
    "terminationDelay",
    "tls.serverName",
    "tls.insecureSkipVerify",
    "tls.rootCAs",
    "tls.certificates.certFile",
    "tls.certificates.keyFile",
    "tls.peerCertURI",
    "tls.spiffe.*",
];

/// Options of `udp.routers` and `udp.services`.
pub(super) const UDP_ROUTER: [&str; 2] = ["entryPoints", "service"];
/// As above.
pub(super) const UDP_SERVICE: [&str; 5] = [
    "loadBalancer.servers.address",
    "loadBalancer.server.port",
    "loadBalancer.server.address",
    "weighted.services.name",
    "weighted.services.weight",
];

/// Names every key below `node`, which stands at `path`, that is none of `keys`.
pub(super) fn check(node: &Node, path: &str, keys: &[&str], problems: &mut Problems) {
    match &node.children {
        Children::None => {}
        Children::List(items) => {
            for (index, item) in items.iter().enumerate() {
                check(item, &format!("{path}[{index}]"), keys, problems);
            }
        }
        Children::Map(entries) => {
            for entry in entries {
                let heads = || keys.iter().map(|key| key.split('.').next().unwrap_or(key));
                if heads().any(|head| head == "*") {
                    continue;
                }
                let below: Vec<&str> = keys.iter().filter_map(|key| rest_of(key, &entry.key)).collect();
                let path = format!("{path}.{}", entry.key);
                if below.is_empty() {
                    let problem = Problem::error(&entry.key_at, format!("unknown key `{path}`"));
                    problems.push(match nearest(&entry.key, heads()) {
                        Some(known) => problem.hint(format!("did you mean `{known}`?")),
                        None => problem,
                    });
                } else if below.iter().any(|rest| !rest.is_empty()) {
                    check(&entry.node, &path, &below, problems);
                }
            }
        }
    }
}

/// What follows `head` in a dotted key, if it starts with it.
fn rest_of<'k>(key: &'k str, head: &str) -> Option<&'k str> {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    first.eq_ignore_ascii_case(head).then_some(rest)
}
