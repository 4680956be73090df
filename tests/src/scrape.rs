//! What a node's agent tells Prometheus, asked for as Prometheus asks.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::lab::Place;

/// Where the agent serves metrics unless it is told otherwise, on the node's loopback.
pub const METRICS_PORT: u16 = 10249;
/// How long a scrape may take; Prometheus' own default.
const TIMEOUT: Duration = Duration::from_secs(10);
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
        let answer = place.within(|| get("/metrics"))?.context("scrape /metrics")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
        ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let wanted = format!("content-type: {CONTENT_TYPE}");
        ensure!(head.lines().any(|line| line.eq_ignore_ascii_case(&wanted)), "{head}");
        Self::parse(body)
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

/// One request; the whole answer.
fn get(path: &str) -> Result<String> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
