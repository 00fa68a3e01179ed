//! `tidegate demo`: what a newcomer sees first.

use std::process::Command;

#[test]
fn the_demo_tells_its_whole_story_and_loses_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["demo", "--for", "30s"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for told in [
        "Nomad starts",
        "is promoted",
        "is killed",
        "fails 30 %",
        "never answers",
        "canary share 0 % -> 5 %",
        "Nothing was lost.",
    ] {
        assert!(text.contains(told), "`{told}` is missing in\n{text}");
    }
    let requests: u64 = text.lines().find_map(|line| line.trim().strip_prefix("requests")).unwrap().trim().parse().unwrap();
    assert!(requests >= 3_000, "at least 100 requests a second: {requests}");
}
