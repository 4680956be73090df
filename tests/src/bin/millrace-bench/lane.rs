//! A lane: a client process in a pod that dials blocks of connections, or exchanges blocks of
//! datagrams, when told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::lab::Place;
use serde::{Deserialize, Serialize};

/// Ports a server listens on.
const PORTS: u64 = crate::SERVER_PORTS.len() as u64;

/// How long a datagram's answer may take; a lost one is a failure.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a datagram carries; the answer is the same.
const DATAGRAM: [u8; 64] = [7; 64];
/// Packets of an exchange: a datagram and its answer.
const PACKETS_PER_EXCHANGE: f64 = 2.0;

/// What a lane's client and server do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialogue {
    /// One TCP connection after the other.
    Connections,
    /// A datagram and its answer, and again.
    Datagrams {
        /// Exchanges until the client takes a new socket, and so begins a new flow.
        per_socket: u32,
    },
}

/// What a lane dials.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Target {
    /// Always the same address.
    One(SocketAddr),
    /// One of three ports at random, as a service of three backends does.
    AnyPort {
        /// Where.
        address: IpAddr,
        /// The first of them.
        first: u16,
    },
    /// A service at random.
    Any {
        /// How many there are.
        services: u32,
    },
}

/// What one block of connections or exchanges cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Block {
    /// Median time of a connect(), or of an exchange, microseconds.
    pub connect_us: f64,
    /// CPU time of client and server per connection, or per datagram, microseconds.
    pub cpu_us: f64,
}

#[derive(Serialize, Deserialize)]
struct Order {
    dialogue: Dialogue,
    target: Target,
    count: u32,
    server: u32,
}

/// A client process.
pub struct Lane {
    /// Shown to people.
    pub name: &'static str,
    /// What it does; connections to begin with.
    pub dialogue: Dialogue,
    target: Target,
    server: u32,
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lane {
    /// Start a client in `place` that dials `target`, behind which is the process `server`.
    pub fn start(name: &'static str, place: &Place, target: Target, server: u32) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        command.arg("lane").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start lane {name}"))?;
        let orders = child.stdin.take().context("a piped stdin")?;
        let answers = BufReader::new(child.stdout.take().context("a piped stdout")?);
        let dialogue = Dialogue::Connections;
        Ok(Self { name, dialogue, target, server, child, orders, answers })
    }

    /// Dial `count` connections, or exchange `count` datagrams, one after the other.
    pub fn block(&mut self, count: u32) -> Result<Block> {
        let Self { dialogue, target, server, .. } = *self;
        let order = Order { dialogue, target, count, server };
        writeln!(self.orders, "{}", serde_json::to_string(&order)?)?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        ensure!(!line.is_empty(), "lane {} ended: its last connect failed", self.name);
        let answer: Result<Block, String> = serde_json::from_str(&line)?;
        answer.map_err(|error| anyhow::anyhow!("lane {}: {error}", self.name))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The client process: one order a line, one answer a line.
pub fn serve_commands() -> Result<()> {
    let mut random = u64::from(std::process::id()) | 1;
    for line in std::io::stdin().lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let answer = run(&order, &mut random).map_err(|error| format!("{error:#}"));
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn run(order: &Order, random: &mut u64) -> Result<Block> {
    let before = cpu_us(order.server)?;
    let mut times = Vec::with_capacity(order.count as usize);
    let mut socket = None;
    for index in 0..order.count {
        times.push(match order.dialogue {
            Dialogue::Connections => connect(next(order.target, random))?,
            Dialogue::Datagrams { per_socket } => {
                if index % per_socket == 0 {
                    socket = Some(open_socket(next(order.target, random))?);
                }
                exchange(socket.as_ref().context("the first exchange opens a socket")?)?
            }
        });
    }
    let cpu = cpu_us(order.server)? - before;
    times.sort_by(f64::total_cmp);
    let units = match order.dialogue {
        Dialogue::Connections => f64::from(order.count),
        Dialogue::Datagrams { .. } => f64::from(order.count) * PACKETS_PER_EXCHANGE,
    };
    Ok(Block { connect_us: times[times.len() / 2], cpu_us: cpu / units })
}

fn open_socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a UDP socket")?;
    socket.connect(address).with_context(|| format!("connect to {address}"))?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Time of one datagram and its answer in microseconds.
fn exchange(socket: &UdpSocket) -> Result<f64> {
    let begun = Instant::now();
    socket.send(&DATAGRAM).context("send a datagram")?;
    let mut answer = [0; DATAGRAM.len()];
    let length = socket.recv(&mut answer).context("wait for the answer")?;
    ensure!(answer[..length] == DATAGRAM, "the answer is another: {length} bytes");
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}

fn next(target: Target, random: &mut u64) -> SocketAddr {
    // xorshift64: seeded by the process id, good enough to defeat caches.
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    match target {
        Target::One(address) => address,
        Target::AnyPort { address, first } => {
            SocketAddr::new(address, first + (*random % PORTS) as u16)
        }
        Target::Any { services } => crate::service((*random % u64::from(services)) as u32),
    }
}

/// Time of one connect() in microseconds; waits for the server to close.
fn connect(address: SocketAddr) -> Result<f64> {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    let elapsed = begun.elapsed();
    stream.read_to_end(&mut Vec::new()).context("wait for the server to close")?;
    Ok(elapsed.as_secs_f64() * 1e6)
}

/// CPU time of this thread and of the server so far, in microseconds.
fn cpu_us(server: u32) -> Result<f64> {
    let mut clock = 0;
    // SAFETY: a valid place for the result.
    let error = unsafe { libc::clock_getcpuclockid(server.cast_signed(), &raw mut clock) };
    ensure!(error == 0, "the server's CPU clock: errno {error}");
    Ok(read_clock(libc::CLOCK_THREAD_CPUTIME_ID)? + read_clock(clock)?)
}

fn read_clock(clock: libc::clockid_t) -> Result<f64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the result.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(result == 0, "read a CPU clock: {}", std::io::Error::last_os_error());
    Ok(time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3)
}
