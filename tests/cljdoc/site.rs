//! What visitors see.

use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use tidegate::clock;

use crate::client::{greeting, plain};
use crate::stage::Stage;

/// `seconds`, as a site's owner would say.
const SECONDS: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn a_site_that_only_has_tags_is_served_with_a_real_certificate_within_seconds() {
    let stage = Stage::set().await;
    let _tidegate = stage.tidegate().await;
    let since_ready = clock::now();
    stage.certificate().await;
    assert!(since_ready.elapsed() < SECONDS, "it took {:?}", since_ready.elapsed());
    assert_eq!(stage.orders(), 1);

    let page = stage.browser.get("/d/a/b", &[]).await;
    assert_eq!((page.status, page.header("x-version")), (200, Some("1")));
    assert_eq!(page.header("content-encoding"), None);
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(text.contains("<p>/d/a/b of version 1</p>"), "{text}");

    let packed = stage.browser.get("/d/a/b", &[("accept-encoding", "br;q=1.0, gzip;q=0.8")]).await;
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
    assert!(packed.body.len() < text.len() / 4, "{} of {}", packed.body.len(), text.len());
    let mut unpacked = String::new();
    GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);

    let head =
        ["HTTP/1.1 301 Moved Permanently", "Connection: close", "Content-Length: 17", "Location: https://cljdoc.org/d/a/b?c=d"];
    assert_eq!(
        plain(stage.ports.web, "GET", "/d/a/b?c=d").await,
        (head.map(str::to_owned).to_vec(), "Moved Permanently".to_owned())
    );

    let (greeting, echo) = greeting(stage.ports.jmx, "are you there?\n").await;
    assert_eq!((greeting.as_str(), echo.as_str()), ("jmx of version 1\n", "are you there?\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CONSUL_BIN, PEBBLE_BIN and PEBBLE_CHALLTESTSRV_BIN (make tools)"]
async fn every_request_of_a_visitor_is_one_line_of_the_access_log() {
    let stage = Stage::set().await;
    let _tidegate = stage.tidegate().await;
    stage.certificate().await;
    stage.browser.get("/logged?a=b", &[("user-agent", "a browser"), ("referer", "https://a.test/"), ("cookie", "secret")]).await;
    let line = stage.logged("/logged?a=b").await;
    let server = stage.instance.address.to_string();
    for (key, expected) in [
        ("RequestMethod", "GET"),
        ("RequestHost", "cljdoc.org"),
        ("RequestAddr", "cljdoc.org"),
        ("RequestProtocol", "HTTP/2.0"),
        ("RequestScheme", "https"),
        ("RouterName", "cljdoc-https@consulcatalog"),
        ("ServiceName", "cljdoc@consulcatalog"),
        ("ServiceAddr", &server),
        ("ServiceURL", &format!("http://{server}")),
        ("ClientHost", "127.0.0.1"),
        ("TLSVersion", "1.3"),
        ("entryPointName", "websecure"),
        ("request_User-Agent", "a browser"),
        ("request_Referer", "https://a.test/"),
    ] {
        assert_eq!(line[key], expected, "{key} of {line}");
    }
    assert_eq!((&line["DownstreamStatus"], &line["OriginStatus"]), (&200.into(), &200.into()));
    assert!(line["Duration"].as_u64() > line["OriginDuration"].as_u64(), "{line}");
    assert!(line.get("request_Cookie").is_none(), "{line}");

    plain(stage.ports.web, "GET", "/redirected").await;
    let line = stage.logged("/redirected").await;
    assert_eq!((&line["DownstreamStatus"], &line["OriginStatus"]), (&301.into(), &0.into()));
    assert_eq!((&line["RouterName"], line.get("ServiceURL")), (&"cljdoc-http@consulcatalog".into(), None));
}
