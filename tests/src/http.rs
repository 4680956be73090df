//! Asks a node what it says of itself, as a load balancer would: over one connection, byte by byte.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::Place;

/// How long an answer may take: as long as Prometheus waits unless it is told otherwise.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("{self:?}"))
    }
}

/// A connection that is kept.
#[derive(Debug)]
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Opens one from a place.
    pub fn open(place: &Place, ip: IpAddr, port: u16) -> Result<Connection> {
        let to = SocketAddr::new(ip, port);
        let stream = place.within(|| TcpStream::connect_timeout(&to, ANSWER_WAIT))?;
        let stream = stream.with_context(|| format!("connect to {to} from {}", place.name()))?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        Ok(Connection(BufReader::new(stream)))
    }

    /// Asks, and reads the whole answer.
    pub fn ask(&mut self, method: &str, path: &str) -> Result<Answer> {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: node\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).context("ask")?;
        let mut line = || -> Result<String> {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line).context("read")? > 0, "the connection was closed");
            Ok(line.trim_end().to_owned())
        };
        let status = line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("no status in {status:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { code, headers, body: String::new() };
        let length: usize = answer.header("content-length").unwrap_or("0").parse()?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).context("read the body")?;
        answer.body = String::from_utf8(body)?;
        Ok(answer)
    }
}

/// One question over a connection of its own.
pub fn get(place: &Place, ip: IpAddr, port: u16, path: &str) -> Result<Answer> {
    Connection::open(place, ip, port)?.ask("GET", path)
}

/// Whether connections are refused.
pub fn is_refused(place: &Place, ip: IpAddr, port: u16) -> Result<()> {
    match Connection::open(place, ip, port) {
        Ok(mut connection) => {
            anyhow::bail!("{ip}:{port} answers: {:?}", connection.ask("GET", "/"))
        }
        Err(error) => {
            let refused = format!("{error:#}").contains("refused");
            ensure!(refused, "{ip}:{port}: {error:#}");
            Ok(())
        }
    }
}
