//! Servers from Debian's packages, each in its pod, each able to say who it is.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Family, Place, Pod, address};
use millrace_tests::wait;

/// How long a server may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Domain of the shop's Services.
pub const DOMAIN: &str = "shop.svc.cluster.local";

/// The programs the demo needs, and Debian's packages for them.
pub const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nginx", "nginx-light"),
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("curl", "curl"),
];

/// Fails with the line that installs what is missing.
pub fn require_programs() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.push("/usr/sbin".into());
    let here = |program: &str| directories.iter().any(|d| d.join(program).exists());
    let missing = PACKAGES.iter().filter(|(program, _)| !here(program));
    let missing: Vec<&str> = missing.map(|(_, package)| *package).collect();
    ensure!(missing.is_empty(), "missing programs: apt-get install {}", missing.join(" "));
    Ok(())
}

/// A running server.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Leaves it running after this value is gone.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a server whose log goes to its directory, and waits until it listens on `port`.
fn start(pod: &Pod, mut command: Command, directory: &Path, port: u16) -> Result<Daemon> {
    let log = fs::File::create(directory.join("log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let child = command.spawn().with_context(|| format!("start the server of {}", pod.name()))?;
    let daemon = Daemon { child };
    for family in [Family::V4, Family::V6] {
        let at = SocketAddr::new(pod.address(family), port);
        let what = format!("{} to listen on {at}", pod.name());
        wait::until(&what, START_TIMEOUT, || {
            pod.within(|| TcpStream::connect(at).map(|_| ()))?.context("connect")
        })?;
    }
    Ok(daemon)
}

fn directory(run: &Path, pod: &Pod) -> Result<PathBuf> {
    let directory = run.join(pod.pod_name());
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// An nginx that answers every request with `answer`; `$remote_addr` is the client it saw.
pub fn nginx(pod: &Pod, run: &Path, port: u16, answer: &str) -> Result<Daemon> {
    let directory = directory(run, pod)?;
    let config = directory.join("nginx.conf");
    let at = directory.display();
    let text = format!(
        "daemon off;
worker_processes 1;
user root;
pid {at}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {at}/body;
  proxy_temp_path {at}/proxy;
  fastcgi_temp_path {at}/fastcgi;
  uwsgi_temp_path {at}/uwsgi;
  scgi_temp_path {at}/scgi;
  server {{
    listen 0.0.0.0:{port};
    listen [::]:{port};
    default_type text/plain;
    location / {{ return 200 '{answer}\\n'; }}
  }}
}}
"
    );
    fs::write(&config, text)?;
    let mut command = pod.command("/usr/sbin/nginx");
    command.arg("-e").arg("stderr").arg("-p").arg(&directory).arg("-c").arg(&config);
    start(pod, command, &directory, port)
}

/// A redis whose key `whoami` holds the pod's name.
pub fn redis(pod: &Pod, run: &Path, port: u16) -> Result<Daemon> {
    let directory = directory(run, pod)?;
    let mut command = pod.command("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "0.0.0.0", "::"]);
    command.args(["--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir"]);
    command.arg(&directory);
    let daemon = start(pod, command, &directory, port)?;
    let port = port.to_string();
    ask(pod, "redis-cli", &["-p", &port, "set", "whoami", pod.pod_name()])?;
    Ok(daemon)
}

/// A dnsmasq that knows the shop's Services and whose TXT record `whoami.DOMAIN` is its name.
pub fn dnsmasq(pod: &Pod, run: &Path, names: &[(&str, u16)]) -> Result<Daemon> {
    let directory = directory(run, pod)?;
    let mut command = pod.command("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]);
    command.args(["--user=root", "--pid-file=", "--log-facility=-", "--port=53"]);
    command.arg(format!("--local=/{DOMAIN}/"));
    command.arg(format!("--txt-record=whoami.{DOMAIN},{}", pod.pod_name()));
    for (name, index) in names {
        let [v4, v6]: [IpAddr; 2] = [Family::V4, Family::V6].map(|f| address::service(f, *index));
        command.arg(format!("--host-record={name}.{DOMAIN},{v4},{v6}"));
    }
    start(pod, command, &directory, 53)
}

/// Runs a client to its end; its output, or why it failed.
pub fn ask(place: &Place, program: &str, arguments: &[&str]) -> Result<String> {
    let output = place.command(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} in {}: {} {}",
        arguments.join(" "),
        place.name(),
        output.status,
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
