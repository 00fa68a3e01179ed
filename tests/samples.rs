//! The files that users copy: the sample configuration has no problems, the image's recipe finds its sources, the units of
//! systemd/ are valid, and the service may do little.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tidegate::cli::check::Verdict;

/// What systemd calls `OK` begins at 2.0 out of 10; without hardening a service has 9.6. In tenths, as systemd takes it.
const EXPOSURE_MAX: &str = "--threshold=20";

const SERVICE: &str = "tidegate.service";

/// The units, in a folder of their own, with a program that exists in place of ours.
fn units() -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")).unwrap() {
        let entry = entry.unwrap();
        let unit = fs::read_to_string(entry.path()).unwrap();
        let path = folder.path().join(entry.file_name());
        fs::write(&path, unit.replace("/usr/local/bin/tidegate", "/bin/true")).unwrap();
        paths.push(path);
    }
    assert!(paths.len() >= 3, "{paths:?}");
    (folder, paths)
}

fn analyze(arguments: &[&str], units: &[PathBuf]) -> Output {
    Command::new("systemd-analyze").args(arguments).args(units).output().expect("systemd-analyze starts")
}

#[test]
#[ignore = "needs systemd-analyze"]
fn systemd_accepts_the_units() {
    let (_folder, units) = units();
    let output = analyze(&["verify"], &units);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}

#[test]
#[ignore = "needs systemd-analyze"]
fn the_service_may_do_little() {
    let (folder, _) = units();
    let output = analyze(&["security", "--offline=true", EXPOSURE_MAX, "--no-pager"], &[folder.path().join(SERVICE)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_sample_configuration_has_no_problems() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/traefik.yaml");
    let mut report = Vec::new();
    let verdict = tidegate::cli::check::run(&file, &mut report).unwrap();
    let report = String::from_utf8(report).unwrap();
    assert_eq!((verdict, report), (Verdict::Usable, format!("{}: no problems\n", file.display())));
}

#[test]
fn the_image_is_made_of_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recipe = fs::read_to_string(root.join("config/Dockerfile")).unwrap();
    let copied: Vec<&str> = recipe
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ").filter(|rest| !rest.starts_with("--from")))
        .flat_map(|rest| rest.rsplit_once(' ').unwrap().0.split(' '))
        .collect();
    assert!(copied.contains(&"src"), "{copied:?}");
    for path in copied {
        assert!(root.join(path).exists(), "{path}");
    }
}

#[test]
fn each_socket_has_the_name_of_an_entrypoint_of_the_sample_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let configuration = fs::read_to_string(root.join("config/traefik.yaml")).unwrap();
    let (_folder, units) = units();
    for unit in units.iter().filter(|path| path.extension().is_some_and(|extension| extension == "socket")) {
        let text = fs::read_to_string(unit).unwrap();
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().to_owned();
        assert_eq!(value("Service="), SERVICE);
        let entrypoint = format!("  {}:\n    address: \":{}\"", value("FileDescriptorName="), value("ListenStream="));
        assert!(configuration.contains(&entrypoint), "{entrypoint}");
    }
}
