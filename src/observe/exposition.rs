//! The text format that Prometheus reads.

use std::fmt::{Display, Write};

/// Families in the order in which they are begun.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// What kind of metric a family is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric with its series. Its head is written before its first series: a family without series is left out.
#[derive(Debug)]
pub(super) struct Family<'e> {
    out: &'e mut String,
    name: &'e str,
    help: &'e str,
    kind: Kind,
    is_begun: bool,
}

impl Exposition {
    /// Begins a metric.
    pub(super) fn family<'e>(&'e mut self, name: &'e str, help: &'e str, kind: Kind) -> Family<'e> {
        Family { out: &mut self.0, name, help, kind, is_begun: false }
    }

    /// A gauge of one series without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, help, Kind::Gauge).number("", &[], value);
    }

    /// A counter of one series without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, help, Kind::Counter).count("", &[], value);
    }

    /// Adds families that are text already.
    pub(super) fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// All of it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

impl Family<'_> {
    /// A series whose value is whole.
    pub(super) fn count(&mut self, suffix: &str, labels: &[(&str, &str)], value: u64) {
        self.sample(suffix, labels, value);
    }

    /// A series whose value is any number.
    pub(super) fn number(&mut self, suffix: &str, labels: &[(&str, &str)], value: f64) {
        if value.is_infinite() {
            self.sample(suffix, labels, if value > 0.0 { "+Inf" } else { "-Inf" });
        } else {
            self.sample(suffix, labels, value);
        }
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let (name, help) = (self.name, self.help);
        if !self.is_begun {
            self.is_begun = true;
            let kind = match self.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        }
        self.push(format_args!("{name}{suffix}"));
        for (index, (label, value)) in labels.iter().enumerate() {
            self.push(format_args!("{}{label}=\"", if index == 0 { '{' } else { ',' }));
            for c in value.chars() {
                match c {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    _ => self.out.push(c),
                }
            }
            self.out.push('"');
        }
        self.push(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory does not fail.
        let _ = self.out.write_fmt(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_as_prometheus_reads_them() {
        let mut exposition = Exposition::default();
        exposition.family("nothing", "Has no series.", Kind::Gauge);
        let mut family = exposition.family("a_total", "Counts.", Kind::Counter);
        family.count("", &[("x", "a\"b\\c\nd"), ("y", "é")], 3);
        family.count("", &[("x", "z"), ("y", "")], u64::MAX);
        exposition.gauge("b", "Measures.", f64::INFINITY);
        exposition.gauge("c", "Measures.", 0.25);
        let text = String::from_utf8(exposition.into_bytes()).unwrap();
        let expected = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{x=\"a\\\"b\\\\c\\nd\",y=\"é\"} 3\n\
            a_total{x=\"z\",y=\"\"} 18446744073709551615\n# HELP b Measures.\n# TYPE b gauge\nb +Inf\n\
            # HELP c Measures.\n# TYPE c gauge\nc 0.25\n";
        assert_eq!(text, expected);
    }
}
