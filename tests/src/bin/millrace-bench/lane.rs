//! A lane: a client process in a pod, or outside, that dials when told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::lab::Place;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::{cpu_us, thread_cpu_us};
use crate::probe::{self, Seen};
use crate::server::{CLOSE, ECHO};
use crate::services;
use crate::statistics::Random;

/// How long an answer may take; a lost one is a failure.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a request carries; the answer is the same.
const MESSAGE: [u8; 64] = [7; 64];
/// The CPU of all clients; they take turns.
const CPU: usize = 0;
/// Less nice than anybody else, while it lasts.
const NICE: i32 = -15;

/// What a lane's client and server do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialogue {
    /// One TCP connection after the other.
    Connections,
    /// A request and its answer, and again, in one TCP connection for the block.
    Requests,
    /// A datagram and its answer, and again.
    Datagrams {
        /// Exchanges until the client takes a new socket, and so begins a new flow.
        per_socket: u32,
    },
}

/// What a lane dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// Always the same address.
    One(SocketAddr),
    /// One of the server's addresses at random, as a Service with these endpoints does.
    AnyOf {
        /// The first one.
        first: SocketAddr,
        /// How many there are.
        count: u8,
    },
    /// A Service at random.
    AnyService {
        /// How many there are.
        services: u32,
    },
}

/// What one block cost.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Block {
    /// Median time of a connect(), or of a request and its answer, microseconds.
    pub time_us: f64,
    /// CPU time of client and server for one, microseconds.
    pub cpu_us: f64,
}

#[derive(Serialize, Deserialize)]
enum Order {
    Block { dialogue: Dialogue, target: Target, count: u32, server: u32 },
    Await { target: SocketAddr, old: u8 },
    Dial { target: SocketAddr, millis: u64 },
    First { target: SocketAddr, millis: u64 },
}

/// A client process.
pub struct Lane {
    name: String,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lane {
    /// Start a client in `place`.
    pub fn start(name: String, place: &Place, seed: u64) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        command.args(["lane", &seed.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start lane {name}"))?;
        let orders = child.stdin.take().context("a piped stdin")?;
        let answers = BufReader::new(child.stdout.take().context("a piped stdout")?);
        Ok(Self { name, child, orders, answers })
    }

    /// Dial `count` times, one after the other; `server` is the process behind `target`.
    pub fn block(
        &mut self,
        dialogue: Dialogue,
        target: Target,
        count: u32,
        server: u32,
    ) -> Result<Block> {
        self.tell(&Order::Block { dialogue, target, count, server })?;
        self.answer()
    }

    /// Dial until another server than `old` answers. Returns when it has answered once.
    pub fn begin_await(&mut self, target: SocketAddr, old: u8) -> Result<()> {
        self.tell(&Order::Await { target, old })?;
        self.answer()
    }

    /// Dial for a while; what was seen comes by [`Lane::seen`].
    pub fn begin_dial(&mut self, target: SocketAddr, time: Duration) -> Result<()> {
        self.tell(&Order::Dial { target, millis: time.as_millis() as u64 })
    }

    /// Dial until somebody answers, but no longer than that: when, by the monotonic clock in
    /// microseconds.
    pub fn first_answer(&mut self, target: SocketAddr, time: Duration) -> Result<Option<f64>> {
        self.tell(&Order::First { target, millis: time.as_millis() as u64 })?;
        self.answer()
    }

    /// What the last order's connections saw.
    pub fn seen(&mut self) -> Result<Seen> {
        self.answer()
    }

    fn tell(&mut self, order: &Order) -> Result<()> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
        Ok(())
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "lane {} ended", self.name);
        let answer: Result<T, String> = serde_json::from_str(&line)?;
        answer.map_err(|error| anyhow::anyhow!("lane {}: {error}", self.name))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keeps the process on one CPU, before others. On a machine with fewer CPUs, or without the right
/// to, it stays as it is.
pub fn pin(cpu: usize) {
    // SAFETY: the set is plain data, made empty before it is filled; 0 is this process.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
    be_nice(NICE);
}

fn be_nice(nice: i32) {
    // SAFETY: numbers; 0 is this process.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// The client process: one order a line, one answer a line.
pub fn serve_orders(seed: &str) -> Result<()> {
    pin(CPU);
    let mut random = Random::new(seed.parse().context("the lane's seed")?);
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?)? {
            Order::Block { dialogue, target, count, server } => {
                say(run(dialogue, target, count, server, &mut random))?;
            }
            Order::Await { target, old } => {
                // Who makes the change must have a CPU for it.
                be_nice(0);
                say(probe::await_change(target, old, || say(Ok(()))))?;
                be_nice(NICE);
            }
            Order::Dial { target, millis } => {
                say(Ok(probe::dial_for(target, Duration::from_millis(millis))))?;
            }
            Order::First { target, millis } => {
                say(Ok(probe::first_answer(target, Duration::from_millis(millis))))?;
            }
        }
    }
    Ok(())
}

fn say<T: Serialize>(answer: Result<T>) -> Result<()> {
    let answer = answer.map_err(|error| format!("{error:#}"));
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn run(
    dialogue: Dialogue,
    target: Target,
    count: u32,
    server: u32,
    random: &mut Random,
) -> Result<Block> {
    let before = thread_cpu_us()? + cpu_us(server)?;
    let mut times = Vec::with_capacity(count as usize);
    let mut stream = None;
    let mut socket = None;
    for index in 0..count {
        times.push(match dialogue {
            Dialogue::Connections => connect(next(target, random))?,
            Dialogue::Requests => {
                if stream.is_none() {
                    stream = Some(open_stream(next(target, random))?);
                }
                request(stream.as_mut().context("a stream was opened")?)?
            }
            Dialogue::Datagrams { per_socket: 1 } => first_datagram(next(target, random))?,
            Dialogue::Datagrams { per_socket } => {
                if index % per_socket == 0 {
                    socket = Some(open_socket(next(target, random))?);
                }
                exchange(socket.as_ref().context("a socket was opened")?)?
            }
        });
    }
    let cpu = thread_cpu_us()? + cpu_us(server)? - before;
    times.sort_by(f64::total_cmp);
    let median = times.get(times.len() / 2).copied().context("a block of at least one")?;
    Ok(Block { time_us: median, cpu_us: cpu / f64::from(count) })
}

fn next(target: Target, random: &mut Random) -> SocketAddr {
    match target {
        Target::One(address) => address,
        Target::AnyOf { first, count } => {
            services::nth(first, random.below(u64::from(count)) as u32)
        }
        Target::AnyService { services } => {
            let index = random.below(u64::from(services)) as u32;
            services::cluster_ip(millrace_tests::lab::Family::V4, index)
        }
    }
}

/// Time of one connect() in microseconds; then a byte, its answer, and the server closes.
fn connect(address: SocketAddr) -> Result<f64> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    let elapsed = begun.elapsed();
    stream.write_all(&[CLOSE]).context("ask who it is")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("wait for the server to close")?;
    ensure!(answer.len() == 1, "{address} answered {} bytes", answer.len());
    Ok(elapsed.as_secs_f64() * 1e6)
}

fn open_stream(address: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&[ECHO]).context("ask for an echo")?;
    Ok(stream)
}

/// Time of one request and its answer in microseconds.
fn request(stream: &mut TcpStream) -> Result<f64> {
    let begun = Instant::now();
    stream.write_all(&MESSAGE).context("send a request")?;
    let mut answer = [0; MESSAGE.len()];
    stream.read_exact(&mut answer).context("wait for the answer")?;
    ensure!(answer == MESSAGE, "the answer is another");
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}

fn open_socket(address: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("open a UDP socket")?;
    socket.connect(address).with_context(|| format!("connect to {address}"))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Time of a new socket's connect() and its first datagram, with the answer, in microseconds.
fn first_datagram(address: SocketAddr) -> Result<f64> {
    let begun = Instant::now();
    let socket = open_socket(address)?;
    exchange(&socket)?;
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}

/// Time of one datagram and its answer in microseconds.
fn exchange(socket: &UdpSocket) -> Result<f64> {
    let begun = Instant::now();
    socket.send(&MESSAGE).context("send a datagram")?;
    let mut answer = [0; MESSAGE.len()];
    let length = socket.recv(&mut answer).context("wait for the answer")?;
    ensure!(answer[..length] == MESSAGE, "the answer is another: {length} bytes");
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}
