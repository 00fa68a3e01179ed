//! Orders over the API: only POST, only with the token of `tidegate.rollout.tokenFile`, and none at all without such a file.
//!
//! `POST /api/tidegate/rollouts/VERB?service=web@consulcatalog` (or `job=NAME`, `job=NAMESPACE/NAME`) with hold, resume,
//! promote, abort, set-share (`share=0.2`) and release (`all=true` in place of a name); `POST /api/tidegate/servers/drain` and
//! `undrain` with `server=ADDRESS` (and `force=true`). What can be asked without changing anything stays with GET.

use std::path::PathBuf;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderValue, StatusCode};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::order::{Answer, Order, Request, ask};

/// Below the API's base, what is asked here.
pub const PREFIX: &str = "/api/tidegate/";
/// A token file is shorter.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Who orders, as far as we know.
const BY: &str = "whoever has the API token";

/// The API's way to control.
#[derive(Clone, Debug)]
pub struct Api {
    /// `tidegate.rollout.tokenFile`; read for each order, so that a new token counts at once.
    pub token_file: Option<PathBuf>,
    /// Where orders go.
    pub orders: mpsc::Sender<Request>,
}

impl Api {
    /// Answers a POST. `path` is what follows [`PREFIX`], `query` is decoded; `authorization` is the header.
    pub async fn answer(
        &self,
        path: &str,
        query: &[(String, String)],
        authorization: Option<&HeaderValue>,
    ) -> (StatusCode, Answer) {
        if let Err((status, reason)) = self.authorise(authorization).await {
            return (status, Answer::refused(reason));
        }
        let order = match parse(path, query) {
            Ok(order) => order,
            Err((status, reason)) => return (status, Answer::refused(reason)),
        };
        let answer = ask(&self.orders, order, BY.to_owned()).await;
        (if answer.is_ok { StatusCode::OK } else { StatusCode::CONFLICT }, answer)
    }

    async fn authorise(&self, authorization: Option<&HeaderValue>) -> Result<(), (StatusCode, String)> {
        let Some(path) = &self.token_file else {
            let reason = "the API does not steer: `tidegate.rollout.tokenFile` is not set; use `tidegate rollout` on the machine";
            return Err((StatusCode::FORBIDDEN, reason.to_owned()));
        };
        let unreadable = |reason: String| {
            tracing::warn!(path = %path.display(), reason, "the token for orders over the API cannot be read, so there are none");
            (StatusCode::FORBIDDEN, "the API does not steer: its token cannot be read".to_owned())
        };
        let mut token = String::new();
        let read = async {
            let file = tokio::fs::File::open(path).await?;
            file.take(TOKEN_BYTES_MAX).read_to_string(&mut token).await
        };
        read.await.map_err(|error| unreadable(error.to_string()))?;
        let token = token.trim();
        if token.is_empty() {
            return Err(unreadable("it is empty".to_owned()));
        }
        let bytes = authorization.map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, given) = bytes.split_at_checked("Bearer ".len()).unwrap_or_default();
        let is_right = scheme.eq_ignore_ascii_case(b"Bearer ") && verify_slices_are_equal(given, token.as_bytes()).is_ok();
        if is_right { Ok(()) } else { Err((StatusCode::UNAUTHORIZED, "this wants `Authorization: Bearer TOKEN`".to_owned())) }
    }
}

/// The order that a path and its query mean.
fn parse(path: &str, query: &[(String, String)]) -> Result<Order, (StatusCode, String)> {
    let mut fields = Map::new();
    let mut rollout = Map::new();
    let wrong = |reason: String| (StatusCode::BAD_REQUEST, reason);
    for (key, value) in query {
        match key.as_str() {
            "job" | "service" => drop(rollout.insert(key.clone(), json!(value))),
            "share" => {
                let share: f64 = value.parse().map_err(|_no_number| wrong(format!("`share` is `{value}`, no number")))?;
                fields.insert(key.clone(), json!(share));
            }
            "server" => drop(fields.insert(key.clone(), json!(value))),
            "force" | "all" if value == "true" => drop(fields.insert(key.clone(), json!(true))),
            _ => return Err(wrong(format!("`{key}={value}` means nothing here"))),
        }
    }
    let name = match path {
        "rollouts/release" if fields.remove("all").is_some() => "release-all",
        "servers/drain" => "drain",
        "servers/undrain" => "undrain",
        _ => match path.strip_prefix("rollouts/") {
            Some(verb @ ("hold" | "resume" | "promote" | "abort" | "set-share" | "release")) => verb,
            _ => return Err((StatusCode::NOT_FOUND, format!("there is no order `{path}`"))),
        },
    };
    fields.insert("order".to_owned(), json!(name));
    if !rollout.is_empty() {
        fields.insert("rollout".to_owned(), Value::Object(rollout));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| wrong(format!("this is no order: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::order::Target;
    use super::*;
    use crate::names::Share;

    fn pairs(query: &str) -> Vec<(String, String)> {
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn an_order_is_a_path_and_its_query() {
        let check = |path: &str, query: &str, expected: Order| assert_eq!(parse(path, &pairs(query)), Ok(expected));
        let web = || Target::Service("web@file".to_owned());
        check("rollouts/hold", "service=web@file", Order::Hold { rollout: web() });
        let share = Share::from_fraction(0.2);
        check("rollouts/set-share", "service=web@file&share=0.2", Order::SetShare { rollout: web(), share });
        check("rollouts/promote", "job=blue/web", Order::Promote { rollout: Target::Job("blue/web".parse().unwrap()) });
        check("rollouts/release", "all=true", Order::ReleaseAll);
        check("servers/drain", "server=10.0.0.1:80", Order::Drain { server: "10.0.0.1:80".to_owned(), force: false });
    }

    #[test]
    fn what_is_no_order_is_refused_with_a_reason() {
        let check = |path: &str, query: &str, status: u16, reason: &str| {
            let (found, text) = parse(path, &pairs(query)).unwrap_err();
            assert!(found == status && text.contains(reason), "{path}?{query}: {found} {text}");
        };
        check("rollouts", "", 404, "no order `rollouts`");
        check("rollouts/stop", "service=a", 404, "no order");
        check("rollouts/hold", "", 400, "missing field `rollout`");
        check("rollouts/hold", "service=a&job=b", 400, "this is no order");
        check("rollouts/hold", "services=a", 400, "`services=a` means nothing here");
        check("rollouts/set-share", "service=a&share=2", 400, "between 0 and 1");
        check("rollouts/set-share", "service=a&share=x", 400, "no number");
    }

    #[tokio::test]
    async fn only_the_token_of_the_file_as_it_is_now_steers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let (orders, mut waiting) = mpsc::channel::<Request>(1);
        tokio::spawn(async move {
            while let Some(request) = waiting.recv().await {
                let _ = request.reply.send(Answer::done(request.by));
            }
        });
        let api = Api { token_file: Some(path.clone()), orders };
        let check = async |api: &Api, header: Option<&'static str>, expected: u16| {
            let header = header.map(HeaderValue::from_static);
            let (status, answer) = api.answer("rollouts/release", &pairs("all=true"), header.as_ref()).await;
            assert_eq!(status, expected, "{header:?}: {answer:?}");
            assert_eq!(answer.is_ok, expected == 200);
        };
        check(&api, Some("Bearer secret"), 403).await;
        std::fs::write(&path, " \n").unwrap();
        check(&api, Some("Bearer "), 403).await;
        std::fs::write(&path, "secret\n").unwrap();
        for wrong in [None, Some("Bearer "), Some("Bearer secret2"), Some("Bearer secre"), Some("Basic secret"), Some("secret")] {
            check(&api, wrong, 401).await;
        }
        check(&api, Some("bearer secret"), 200).await;
        std::fs::write(&path, "another\n").unwrap();
        check(&api, Some("Bearer secret"), 401).await;
        check(&api, Some("Bearer another"), 200).await;
        let without = Api { token_file: None, ..api };
        check(&without, Some("Bearer another"), 403).await;
    }
}
