//! Prometheus's text format, version 0.0.4: a few lines for each family of figures.

use std::fmt::Write as _;

use cofferdam_deploy::{BUCKETS, HistogramView};

/// The media type of the format.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kinds of figure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text that is being written.
#[derive(Debug, Default)]
pub(super) struct Text {
    text: String,
    /// The family that is being written.
    name: &'static str,
}

impl Text {
    /// Begins a family.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// One figure of the family.
    pub(super) fn value(&mut self, labels: &[(&str, &str)], value: u64) {
        let (name, labels) = (self.name, spelt(labels));
        self.line(format_args!("{name}{labels} {value}"));
    }

    /// One distribution of the family.
    pub(super) fn histogram(&mut self, labels: &[(&str, &str)], view: &HistogramView) {
        let name = self.name;
        let bounds = BUCKETS.iter().map(ToString::to_string);
        let counts = view.cumulative.iter().copied();
        for (bound, count) in bounds.zip(counts).chain([("+Inf".to_owned(), view.count)]) {
            let labels: Vec<_> = labels
                .iter()
                .copied()
                .chain([("le", bound.as_str())])
                .collect();
            let labels = spelt(&labels);
            self.line(format_args!("{name}_bucket{labels} {count}"));
        }
        let labels = spelt(labels);
        self.line(format_args!("{name}_sum{labels} {}", view.sum));
        self.line(format_args!("{name}_count{labels} {}", view.count));
    }

    pub(super) fn into_string(self) -> String {
        self.text
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string takes what is written");
    }
}

/// `{name="value",...}`, or nothing. Values are escaped, though none of ours needs it.
fn spelt(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let labels = labels.iter().map(|(name, value)| {
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        format!("{name}=\"{value}\"")
    });
    format!("{{{}}}", labels.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_values_and_distributions_are_spelt_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "All of a.");
        text.value(&[], 3);
        text.value(&[("kind", "x\"y"), ("of", "b\\")], 4);
        text.family("b_seconds", Kind::Histogram, "How long b took.");
        let mut cumulative = [1; BUCKETS.len()];
        cumulative[0] = 0;
        let view = HistogramView {
            cumulative,
            count: 2,
            sum: 7.5,
        };
        text.histogram(&[("kind", "x")], &view);
        let text = text.into_string();
        assert!(text.starts_with(
            "# HELP a_total All of a.\n# TYPE a_total counter\na_total 3\na_total{kind=\"x\\\"y\",of=\"b\\\\\"} 4\n"
        ));
        for line in [
            "b_seconds_bucket{kind=\"x\",le=\"0.001\"} 0",
            "b_seconds_bucket{kind=\"x\",le=\"3600\"} 1",
            "b_seconds_bucket{kind=\"x\",le=\"+Inf\"} 2",
            "b_seconds_sum{kind=\"x\"} 7.5",
            "b_seconds_count{kind=\"x\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
