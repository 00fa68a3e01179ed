//! Certificates from a real CA for tests: Pebble, whose path `PEBBLE_BIN` says (else it is looked for in `.tools/`).
//!
//! Each test has its own Pebble, name server and challenge responder on ports of the kernel's, and waits for values, never for time.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends at the first surprise")]

mod support;

use std::fs;
use std::time::Duration;

use support::{Edge, Pebble, Site, Traefik, names_of};
use tidegate::clock;
use tidegate::config::install::KeyType;

/// How long a value may take to come. A new certificate takes two or three seconds.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_new_site_has_its_certificate_within_seconds_and_keeps_it_over_a_restart() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    let began = clock::now();
    edge.want(&[("le", &["a.test", "b.test"])]);
    let serial = edge.serial("a.test").await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert_eq!(edge.serial("b.test").await, serial);
    let stored = edge.stored("le", 1).await;
    assert_eq!(stored["le"]["Certificates"][0]["domain"], serde_json::json!({ "main": "a.test", "sans": ["b.test"] }));
    assert_eq!(stored["le"]["Certificates"][0]["Store"], "default");
    assert!(stored["le"]["Account"].is_null(), "our account key is none that Traefik could read");
    assert_eq!(pebble.orders(), 1);
    edge.stop().await;

    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    assert_eq!(edge.store.find("a.test").expect("it is served before anything runs").serial, serial);
    edge.want(&[("le", &["a.test", "b.test"])]);
    let state = edge.state("a.test", |state| state.next_attempt.is_some()).await;
    assert!(state.next_attempt > Some(clock::wall() + Duration::from_secs(24 * 3600)), "{state:?}");
    // A name that is new is ordered, with the account that is there.
    edge.want(&[("le", &["a.test", "b.test"]), ("le", &["c.test"])]);
    edge.serial("c.test").await;
    assert_eq!((pebble.orders(), pebble.accounts()), (2, 1));
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn certificates_have_the_kind_of_key_that_is_configured() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let kinds = [
        ("rsa2048", KeyType::Rsa2048, 2048),
        ("rsa4096", KeyType::Rsa4096, 4096),
        ("ec256", KeyType::Ec256, 256),
        ("ec384", KeyType::Ec384, 384),
    ];
    let resolvers: Vec<_> = kinds
        .iter()
        .map(|(name, key_type, _)| {
            let mut acme = pebble.acme(&site);
            acme.key_type = *key_type;
            (*name, acme)
        })
        .collect();
    let mut edge = Edge::start(&site, &resolvers);
    let hosts: Vec<String> = kinds.iter().map(|(name, ..)| format!("{name}.test")).collect();
    let wanted: Vec<(&str, [&str; 1])> = kinds.iter().zip(&hosts).map(|((name, ..), host)| (*name, [host.as_str()])).collect();
    let wanted: Vec<(&str, &[&str])> = wanted.iter().map(|(name, hosts)| (*name, hosts.as_slice())).collect();
    edge.want(&wanted);
    for ((name, _, bits), host) in kinds.iter().zip(&hosts) {
        edge.serial(host).await;
        assert_eq!(edge.key_bits(host), *bits, "{name}");
        edge.stored(name, 1).await;
    }
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_certificate_is_renewed_before_it_ends() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[("validity", "16")]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["a.test"])]);
    let first = edge.serial("a.test").await;
    let not_after = edge.store.find("a.test").unwrap().not_after;
    let renewed = edge.find("a.test", |certificate| certificate.serial != first).await;
    assert!(clock::wall() < not_after, "it came before the first had ended");
    assert!(renewed.not_after > not_after);
    let stored = edge.stored("le", 1).await;
    assert_eq!(stored["le"]["Certificates"].as_array().unwrap().len(), 1, "it takes the place of the first");
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_ca_that_rejects_every_second_nonce_gives_all_certificates() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[("PEBBLE_WFE_NONCEREJECT", "50")]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    let hosts = ["a.test", "b.test", "c.test", "d.test", "e.test", "f.test"];
    let wanted: Vec<(&str, &[&str])> = hosts.chunks(1).map(|host| ("le", host)).collect();
    edge.want(&wanted);
    for host in hosts {
        edge.serial(host).await;
    }
    assert_eq!(pebble.accounts(), 1);
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_ca_that_is_down_is_asked_again_by_a_timer_however_often_the_configuration_changes() {
    let site = Site::new().await;
    let mut pebble = Pebble::start(&site, &[]).await;
    let acme = pebble.acme(&site);
    pebble.stop();
    let mut edge = Edge::start(&site, &[("le", acme)]);
    let before = clock::wall();
    edge.want(&[("le", &["a.test"])]);
    let failed = edge.state("a.test", |state| state.failures > 0).await;
    let wait = failed.next_attempt.unwrap().duration_since(before).unwrap().as_secs();
    assert!((60..=100).contains(&wait), "{wait} s");
    assert!(failed.last_error.unwrap().contains("the CA cannot be reached"));
    assert!(failed.not_after.is_none(), "the default certificate answers meanwhile");
    for n in 0..50 {
        let extra = format!("x{n}.test");
        edge.want(&[("le", &["a.test"]), ("le", &[&extra])]);
        let extra = edge.state(&extra, |state| state.next_attempt.is_some()).await;
        assert_eq!(extra.failures, 0, "a CA that is down is not asked for other names either");
    }
    assert_eq!(edge.state("a.test", |_| true).await.failures, 1);
    edge.stop().await;
    // Remembered over a restart.
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["a.test"])]);
    let state = edge.state("a.test", |state| state.next_attempt.is_some()).await;
    assert_eq!(state.failures, 1);
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_name_that_cannot_be_verified_waits_and_the_others_do_not() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["elsewhere.invalid-dns.test"]), ("le", &["a.test"])]);
    let failed = edge.state("elsewhere.invalid-dns.test", |state| state.failures > 0).await;
    let error = failed.last_error.unwrap();
    assert!(error.contains("could not verify `elsewhere.invalid-dns.test`"), "{error}");
    edge.serial("a.test").await;
    assert_eq!(
        site.challenges.answer("/.well-known/acme-challenge/x", "a.test"),
        tidegate::tls::challenge::ChallengeAnswer::Unknown
    );
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn an_account_is_bound_to_that_of_a_customer_where_the_ca_wants_it() {
    let site = Site::new().await;
    let key = "bm90IGEgc2VjcmV0LCBidXQgbG9uZyBlbm91Z2ggZm9yIFBlYmJsZQ";
    let pebble = Pebble::start(&site, &[("external account", key)]).await;
    let (mut bound, unbound) = (pebble.acme(&site), pebble.acme(&site));
    bound.eab = Some(("kid-1".to_owned(), key.to_owned()));
    let mut edge = Edge::start(&site, &[("bound", bound), ("unbound", unbound)]);
    edge.want(&[("bound", &["a.test"]), ("unbound", &["b.test"])]);
    edge.serial("a.test").await;
    let failed = edge.state("b.test", |state| state.failures > 0).await;
    assert!(failed.last_error.unwrap().contains("externalAccountRequired"));
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_ca_that_has_forgotten_the_account_gets_a_new_one() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["a.test"])]);
    edge.serial("a.test").await;
    // Pebble keeps everything in memory.
    let pebble = pebble.restart(&site).await;
    edge.want(&[("le", &["a.test"]), ("le", &["b.test"])]);
    edge.serial("b.test").await;
    assert_eq!(pebble.accounts(), 1);
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN"]
async fn a_certificate_that_cannot_be_stored_is_served_and_stored_later() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    let lock = fs::File::create(site.storage().with_extension("json.tidegate.lock")).unwrap();
    lock.lock().unwrap();
    edge.want(&[("le", &["a.test"])]);
    edge.serial("a.test").await;
    assert_eq!(fs::read(site.storage()).unwrap(), b"");
    drop(lock);
    let stored = edge.stored("le", 1).await;
    assert_eq!(names_of(&stored, "le"), ["a.test"]);
    edge.stop().await;
}

#[tokio::test]
#[ignore = "needs PEBBLE_BIN and TRAEFIK_BIN"]
async fn traefik_takes_over_and_hands_back() {
    let site = Site::new().await;
    let pebble = Pebble::start(&site, &[]).await;
    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["a.test"])]);
    let certificate = edge.find("a.test", |_| true).await;
    edge.stored("le", 1).await;
    edge.stop().await;

    let traefik = Traefik::start(&site, &pebble, "a.test").await;
    traefik.serves("a.test", &certificate).await;
    traefik.stop();
    assert_eq!(pebble.orders(), 1, "Traefik asked for nothing");
    let by_traefik: serde_json::Value = serde_json::from_slice(&fs::read(site.storage()).unwrap()).unwrap();

    let mut edge = Edge::start(&site, &[("le", pebble.acme(&site))]);
    edge.want(&[("le", &["a.test"]), ("le", &["b.test"])]);
    edge.serial("b.test").await;
    assert_eq!(edge.serial("a.test").await, certificate.serial);
    let stored = edge.stored("le", 2).await;
    assert_eq!(stored["le"]["Account"], by_traefik["le"]["Account"]);
    edge.stop().await;
}
