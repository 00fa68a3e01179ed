//! What is asked of a CA, and when.

use std::time::UNIX_EPOCH;

use super::*;

const HOUR: u64 = 3600;
const LE_DURATION: Duration = Duration::from_secs(90 * DAY);

/// Some moment.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(20_000 * DAY)
}

fn after(seconds: u64) -> SystemTime {
    now() + Duration::from_secs(seconds)
}

fn before(seconds: u64) -> SystemTime {
    now() - Duration::from_secs(seconds)
}

fn wanted(names: &[&str]) -> WantedCertificate {
    let (main, sans) = names.split_first().unwrap();
    let sans = sans.iter().map(|name| (*name).to_owned()).collect();
    WantedCertificate { resolver: "le".to_owned(), domain: Domain { main: (*main).to_owned(), sans } }
}

fn held<'a>(names: &[&'a str], not_before: SystemTime, not_after: SystemTime, resolver: Option<&'a str>) -> Held<'a> {
    Held { names: names.iter().map(|name| Cow::Borrowed(*name)).collect(), not_before, not_after, resolver }
}

fn resolver() -> ResolverView {
    ResolverView { certificates_duration: LE_DURATION, has_account: true, ..ResolverView::default() }
}

/// One resolver `le` with this history: the steps for what is wanted.
#[track_caller]
fn check(wanted: &[WantedCertificate], held: &[Held<'_>], le: ResolverView, under_way: &[&str], expected: &[Step]) {
    let resolvers = BTreeMap::from([("le".to_owned(), le)]);
    let under_way = under_way.iter().map(|names| ("le".to_owned(), (*names).to_owned())).collect();
    let view = View { wanted, held, resolvers: &resolvers, under_way: &under_way };
    assert_eq!(plan(&view, now()), expected);
}

fn failure(retry_after: Option<u64>, is_ca_down: bool) -> Failure {
    Failure { error: "no".to_owned(), retry_after: retry_after.map(Duration::from_secs), is_ca_down }
}

#[test]
fn a_new_name_is_ordered_at_once_and_once() {
    let both = [wanted(&["a.test"]), wanted(&["A.test"]), wanted(&["b.test", "a.test"])];
    let order = Step::Order(Kind::Obtain);
    check(&both, &[], resolver(), &[], &[order.clone(), Step::UnderWay, order.clone()]);
    check(&both, &[], resolver(), &["a.test"], &[Step::UnderWay, Step::UnderWay, order]);
}

#[test]
fn names_that_any_certificate_covers_are_not_ordered() {
    let file = [held(&["*.a.test"], before(DAY), after(DAY), None), held(&["b.test"], before(DAY), after(2 * DAY), None)];
    let rest = |seconds| Step::Rest { until: after(seconds) };
    check(&[wanted(&["x.a.test", "b.test"])], &file, resolver(), &[], &[rest(DAY)]);
    check(&[wanted(&["x.y.a.test"])], &file, resolver(), &[], &[Step::Order(Kind::Obtain)]);
    check(&[wanted(&["a.test"])], &file, resolver(), &[], &[Step::Order(Kind::Obtain)]);
    // One that has ended covers nothing.
    let ended = [held(&["b.test"], before(9 * DAY), before(1), None)];
    check(&[wanted(&["b.test"])], &ended, resolver(), &[], &[Step::Order(Kind::Renew)]);
}

#[test]
fn a_certificate_is_renewed_when_its_time_has_come() {
    let fresh = [held(&["a.test"], before(59 * DAY), after(31 * DAY), Some("le"))];
    check(&[wanted(&["a.test"])], &fresh, resolver(), &[], &[Step::Rest { until: after(DAY) }]);
    let due = [held(&["a.test"], before(61 * DAY), after(29 * DAY), Some("le"))];
    check(&[wanted(&["a.test"])], &due, resolver(), &[], &[Step::Order(Kind::Renew)]);
    // What nobody wants any more is not renewed.
    check(&[], &due, resolver(), &[], &[]);
}

#[test]
fn new_names_go_before_renewals_and_only_so_many_at_once() {
    let due: Vec<String> = (0..6).map(|n| format!("old{n}.test")).collect();
    let held: Vec<Held<'_>> = due.iter().map(|name| held(&[name], before(80 * DAY), after(10 * DAY), Some("le"))).collect();
    let mut all: Vec<WantedCertificate> = due.iter().map(|name| wanted(&[name])).collect();
    all.extend((0..6).map(|n| wanted(&[&format!("new{n}.test")])));
    let mut expected = vec![Step::Order(Kind::Renew); 2];
    expected.extend(vec![Step::Queue; 4]);
    expected.extend(vec![Step::Order(Kind::Obtain); 6]);
    check(&all, &held, resolver(), &[], &expected);
}

#[test]
fn without_an_account_the_first_order_goes_alone() {
    let le = ResolverView { has_account: false, ..resolver() };
    let two = [wanted(&["a.test"]), wanted(&["b.test"])];
    check(&two, &[], le.clone(), &[], &[Step::Order(Kind::Obtain), Step::Queue]);
    check(&two, &[], le, &["b.test"], &[Step::Queue, Step::UnderWay]);
}

#[test]
fn what_cannot_be_obtained_is_refused_with_a_reason() {
    check(&[wanted(&["*.a.test"])], &[], resolver(), &[], &[Step::Refuse("HTTP-01 cannot prove a wildcard")]);
    check(&[wanted(&[""])], &[], resolver(), &[], &[Step::Refuse("it names no domain")]);
    let useless = ResolverView { is_useless: Some("no challenge"), ..resolver() };
    check(&[wanted(&["a.test"])], &[], useless, &[], &[Step::Refuse("no challenge")]);
    let other = WantedCertificate { resolver: "nope".to_owned(), ..wanted(&["a.test"]) };
    check(&[other], &[], resolver(), &[], &[Step::Refuse("its certificate resolver does not exist")]);
}

#[test]
fn a_failure_is_tried_again_after_a_doubling_time() {
    let mut history = History::default();
    let mut seen = Vec::new();
    for _ in 0..11 {
        history.record_failure("a.test".to_owned(), &failure(None, false), 0.0, now());
        seen.push(history.attempts["a.test"].next.duration_since(now()).unwrap().as_secs());
    }
    assert_eq!(seen, [60, 120, 240, 480, 960, 1920, 3840, 7680, 15_360, 21_600, 21_600]);
    assert_eq!(back_off(1, 1.0), Duration::from_secs(90));
    let until = after(21_600);
    check(&[wanted(&["a.test"])], &[], ResolverView { history: history.clone(), ..resolver() }, &[], &[Step::Wait { until }]);
    // Another name does not wait for it.
    check(
        &[wanted(&["b.test"])],
        &[],
        ResolverView { history: history.clone(), ..resolver() },
        &[],
        &[Step::Order(Kind::Obtain)],
    );
    history.record_success("a.test");
    check(&[wanted(&["a.test"])], &[], ResolverView { history, ..resolver() }, &[], &[Step::Order(Kind::Obtain)]);
}

#[test]
fn a_ca_that_asks_for_patience_gets_it() {
    let two = [wanted(&["a.test"]), wanted(&["b.test"])];
    for (retry_after, is_ca_down, expected) in [
        // A short time is about the account: all wait.
        (Some(20), false, [Step::Wait { until: after(60) }, Step::Wait { until: after(20) }]),
        // A long one is about the names.
        (Some(5 * HOUR), false, [Step::Wait { until: after(5 * HOUR) }, Step::Order(Kind::Obtain)]),
        // Nobody waits longer than a week.
        (Some(99 * DAY), false, [Step::Wait { until: after(7 * DAY) }, Step::Order(Kind::Obtain)]),
        // A CA that does not work is asked by one name a minute, not by all.
        (None, true, [Step::Wait { until: after(60) }, Step::Wait { until: after(60) }]),
    ] {
        let mut history = History::default();
        history.record_failure("a.test".to_owned(), &failure(retry_after, is_ca_down), 0.0, now());
        check(&two, &[], ResolverView { history, ..resolver() }, &[], &expected);
    }
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_renewals() {
    let mut history = History::default();
    history.record_failure("a.test".to_owned(), &failure(None, false), 0.0, after(365 * DAY));
    check(&[wanted(&["a.test"])], &[], ResolverView { history, ..resolver() }, &[], &[Step::Order(Kind::Obtain)]);
}

#[test]
fn failures_of_a_router_that_comes_and_goes_are_remembered_for_a_day() {
    let mut history = History::default();
    history.record_failure("a.test".to_owned(), &failure(None, false), 0.0, now());
    let nobody = BTreeSet::new();
    history.forget(&nobody, after(DAY));
    assert_eq!(history.attempts.len(), 1);
    history.forget(&BTreeSet::from(["a.test".to_owned()]), after(3 * DAY));
    assert_eq!(history.attempts.len(), 1);
    history.forget(&nobody, after(3 * DAY));
    assert_eq!(history.attempts.len(), 0);
}

#[test]
fn certificates_are_renewed_by_traefiks_table_or_by_their_own_life() {
    const HOUR: u64 = 60;
    for (life_minutes, duration_minutes, left_minutes) in [
        // As long as certificatesDuration says: Traefik's table.
        (2160 * HOUR, 2160 * HOUR, 720 * HOUR),
        (2159 * HOUR, 2160 * HOUR, 720 * HOUR),
        (8760 * HOUR, 8760 * HOUR, 2880 * HOUR),
        (2160 * HOUR, 720 * HOUR, 240 * HOUR),
        (160 * HOUR, 160 * HOUR, 48 * HOUR),
        (24 * HOUR, 24 * HOUR, 6 * HOUR),
        // Shorter: their own life.
        (1080 * HOUR, 2160 * HOUR, 360 * HOUR),
        (160 * HOUR, 2160 * HOUR, 80 * HOUR),
        (24 * HOUR, 2160 * HOUR, 12 * HOUR),
        // The table never means more than half a life.
        (30, 20, 15),
    ] {
        let not_after = now() + Duration::from_secs(life_minutes * 60);
        let at = renew_at(now(), not_after, Duration::from_secs(duration_minutes * 60));
        let left = not_after.duration_since(at).unwrap().as_secs() / 60;
        assert_eq!(left, left_minutes, "{life_minutes} min with certificatesDuration {duration_minutes} min");
    }
}

#[test]
fn the_plan_is_made_anew_when_the_first_step_is_due() {
    let steps = [Step::Rest { until: after(9) }, Step::Queue, Step::Wait { until: after(5) }, Step::Refuse("")];
    assert_eq!(wake_at(&steps), Some(after(5)));
    assert_eq!(wake_at(&steps[1..2]), None);
}
