//! Making and registering instruments, each in one line.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, Result,
};

/// Registers what it makes.
pub(super) struct Instruments<'a>(pub(super) &'a Registry);

impl Instruments<'_> {
    fn add<C: Collector + Clone + 'static>(&self, instrument: C) -> Result<C> {
        self.0.register(Box::new(instrument.clone()))?;
        Ok(instrument)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::new(name, help)?)
    }

    pub(super) fn counters(&self, name: &str, help: &str, label: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), label)?)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::new(name, help)?)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, label: &[&str]) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), label)?)
    }

    pub(super) fn times(&self, name: &str, help: &str, label: &[&str]) -> Result<GaugeVec> {
        self.add(GaugeVec::new(Opts::new(name, help), label)?)
    }

    pub(super) fn constant(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<()> {
        let mut opts = Opts::new(name, help);
        for (label, value) in labels {
            opts = opts.const_label(*label, *value);
        }
        let gauge = self.add(Gauge::with_opts(opts)?)?;
        gauge.set(1.0);
        Ok(())
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        label: &[&str],
        buckets: Vec<f64>,
    ) -> Result<HistogramVec> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), label)?)
    }
}
