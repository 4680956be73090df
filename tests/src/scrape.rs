//! What a node's agent tells Prometheus, asked for as Prometheus asks.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

use crate::http;
use crate::lab::{Family, Place};

/// Where the agent serves metrics unless it is told otherwise, on the node's loopback.
pub const METRICS_PORT: u16 = 10249;
/// The type that Prometheus expects.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One scrape: every sample by its series, as `name{label="value",...}`.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// By series.
    pub samples: BTreeMap<String, f64>,
    /// The type of each metric.
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    /// Asks the agent of the node whose network the place is in.
    pub fn of(place: &Place) -> Result<Scrape> {
        let answer = http::get(place, Family::V4.loopback(), METRICS_PORT, "/metrics");
        let answer = answer.context("scrape /metrics")?;
        ensure!(answer.code == 200, "{answer:?}");
        ensure!(answer.header("content-type") == Some(CONTENT_TYPE), "{answer:?}");
        Self::parse(&answer.body)
    }

    /// Reads the text format. What is there twice, or is no sample, is an error.
    pub fn parse(text: &str) -> Result<Scrape> {
        let mut scrape = Scrape::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("a type")?;
                let before = scrape.types.insert(name.to_owned(), kind.to_owned());
                ensure!(before.is_none(), "{name} has two types");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("a sample")?;
                let value = value.parse().with_context(|| line.to_owned())?;
                let before = scrape.samples.insert(series.to_owned(), value);
                ensure!(before.is_none(), "{series} is there twice");
            }
        }
        Ok(scrape)
    }

    /// The sum of samples of a metric that have all these labels, as `name="value"`; none: there
    /// are no such samples.
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let of_name = |series: &str| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let has_all = |series: &str| labels.iter().all(|label| series.contains(label));
        let mut found = self.samples.iter().filter(|(s, _)| of_name(s) && has_all(s)).peekable();
        found.peek()?;
        Some(found.map(|(_, value)| value).sum())
    }

    /// As [`sum`](Self::sum), for what must be there.
    pub fn value(&self, name: &str, labels: &[&str]) -> Result<f64> {
        self.sum(name, labels).with_context(|| format!("no {name}{labels:?}"))
    }

    /// Fails if a counter has gone down since an earlier scrape.
    pub fn check_grown_since(&self, before: &Scrape) -> Result<()> {
        for (series, value) in &self.samples {
            let name = series.split('{').next().unwrap_or_default();
            let is_counter = self.types.get(name).is_some_and(|kind| kind == "counter");
            let Some(was) = before.samples.get(series).filter(|_| is_counter) else { continue };
            if value < was {
                bail!("{series} went from {was} to {value}");
            }
        }
        Ok(())
    }
}
