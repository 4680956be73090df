//! Metrics whose samples are made when they are asked for.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// Samples of one metric, while they are collected.
pub(super) struct Family {
    family: MetricFamily,
    labels: &'static [&'static str],
}

impl Family {
    pub(super) fn counter(name: &str, help: &str, labels: &'static [&'static str]) -> Self {
        Self::new(name, help, labels, MetricType::COUNTER)
    }

    pub(super) fn gauge(name: &str, help: &str, labels: &'static [&'static str]) -> Self {
        Self::new(name, help, labels, MetricType::GAUGE)
    }

    fn new(name: &str, help: &str, labels: &'static [&'static str], kind: MetricType) -> Self {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Self { family, labels }
    }

    /// One more sample. Values of labels are in the order of their names.
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows no other numbers")]
    pub(super) fn add(&mut self, values: &[&str], sample: u64) {
        self.add_f64(values, sample as f64);
    }

    pub(super) fn add_f64(&mut self, values: &[&str], sample: f64) {
        let pairs = self.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        if self.family.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(sample);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(sample);
            metric.set_gauge(gauge);
        }
        self.family.mut_metric().push(metric);
    }

    /// The metric; nothing if it has no samples.
    pub(super) fn finish(self) -> Option<MetricFamily> {
        (!self.family.get_metric().is_empty()).then_some(self.family)
    }
}
