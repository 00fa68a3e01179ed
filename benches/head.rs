//! What reading a request's head costs.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at what is wrong")]
#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::listener::h1::head::{EndFinder, parse};

const SMALL: &[u8] = b"GET /d/metosin/reitit HTTP/1.1\r\nHost: cljdoc.org\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n";

/// As a browser sends it, with a cookie of 1 KiB.
fn browser() -> Vec<u8> {
    format!(
        "GET /d/metosin/reitit/0.9.1/doc/introduction?q=a+b HTTP/1.1\r\nHost: cljdoc.org\r\nConnection: keep-alive\r\n\
         sec-ch-ua: \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
         Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36\r\n\
         Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\nReferer: https://cljdoc.org/\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\nCookie: session={}\r\n\r\n",
        "x".repeat(1024)
    )
    .into_bytes()
}

fn bench(c: &mut Criterion) {
    for (name, head) in [("small", SMALL.to_vec()), ("browser", browser())] {
        c.bench_function(&format!("head/{name}"), |b| {
            b.iter(|| {
                let end = EndFinder::default().find(black_box(&head), 1 << 20).unwrap().unwrap();
                parse(&Bytes::copy_from_slice(&head[..end])).unwrap()
            });
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
