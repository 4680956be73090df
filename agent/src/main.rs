//! The `millrace` binary: arguments in, exit code out.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use millrace::bpf::object::FlowCapacity;
use millrace::bpf::packet::Means;
use millrace::canary::rows;
use millrace::ctl::flows::Filter;
use millrace::ctl::{self, Output};
use millrace::health::configz;
use millrace::plan::op::Capacity;
use millrace::run::{self, Config, Source};
use millrace::settings::flags::PolicyFlags;
use millrace::settings::servers::ServerFlags;
use tracing_subscriber::EnvFilter;

/// What is logged unless `MILLRACE_LOG` says otherwise. The client's own lines repeat at every
/// retry what we say once.
const DEFAULT_LOG: &str = "info,kube_client=off";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Kubernetes Services in the kernel, on every node, beside any CNI, without kube-proxy.
#[derive(Parser)]
#[command(name = "millrace", disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve this node's Services until SIGTERM; what is pinned goes on serving after it.
    Run(Box<RunArgs>),
    /// Is it serving, and if not, what is wrong. Works with the agent dead. Exit code 3: unhealthy.
    Status(ReadArgs),
    /// Every frontend on this node and where it leads from here. Works with the agent dead.
    Services {
        /// Show only this Service: NAME or NAMESPACE/NAME.
        service: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// What the packet path translates at this moment. Works with the agent dead.
    Flows {
        #[command(flatten)]
        filter: FlowArgs,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Detach every program and remove every pin: Services are no longer translated.
    Cleanup {
        /// Directory on a BPF file system that the agent pins in; default: where one is mounted.
        #[arg(long, value_name = "PATH")]
        bpffs: Option<PathBuf>,
    },
    /// The agent's own: dials what the agent tells it to, to see that it is translated.
    #[command(hide = true)]
    Canary,
    /// Versions of the agent and of its maps.
    Version {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Args)]
struct ReadArgs {
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// Directory on a BPF file system that the agent pins in; default: where one is mounted.
    #[arg(long, value_name = "PATH")]
    bpffs: Option<PathBuf>,
}

#[derive(Args)]
struct FlowArgs {
    /// Only of this Service: NAME or NAMESPACE/NAME.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only of this client.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// Only to this backend.
    #[arg(long, value_name = "IP[:PORT]")]
    backend: Option<String>,
    /// Only of this protocol: tcp, udp or sctp.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// How many to show at most; 0: all.
    #[arg(long, value_name = "COUNT", default_value_t = ctl::flows::LIMIT_DEFAULT)]
    limit: usize,
}

impl From<FlowArgs> for Filter {
    fn from(args: FlowArgs) -> Self {
        let FlowArgs { service, client, backend, protocol, limit } = args;
        Self { service, client, backend, protocol, limit }
    }
}

#[derive(Args)]
struct RunArgs {
    /// Read Services, EndpointSlices, Nodes and ServiceCIDRs from the YAML and JSON files in this
    /// directory, live.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "api_server"])]
    manifests: Option<PathBuf>,
    /// Read them from the Kubernetes API that this kubeconfig names.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Address of the Kubernetes API, instead of the one in the kubeconfig or the pod's
    /// environment.
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
    /// Name of this node's Node object; default: the host's name in lower case.
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// cgroup2 directory whose processes are served; default: where cgroup2 is mounted.
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<PathBuf>,
    /// Directory on a BPF file system to pin in; default: where one is mounted.
    #[arg(long, value_name = "PATH")]
    bpffs: Option<PathBuf>,
    /// Service ports there is room for.
    #[arg(long, value_name = "ROWS", default_value_t = Capacity::default().services)]
    max_services: u32,
    /// Backends there is room for, of each IP family.
    #[arg(long, value_name = "ROWS", default_value_t = Capacity::default().backends)]
    max_backends: u32,
    /// Places in lists of backends there is room for.
    #[arg(long, value_name = "ROWS", default_value_t = Capacity::default().slots)]
    max_slots: u32,
    /// Frontends (address and port) there is room for, of each IP family.
    #[arg(long, value_name = "ROWS", default_value_t = Capacity::default().frontends)]
    max_frontends: u32,
    /// Prefixes of loadBalancerSourceRanges there is room for, of each IP family; every port of a
    /// Service has its own.
    #[arg(long, value_name = "ROWS", default_value_t = Capacity::default().sources)]
    max_source_ranges: u32,
    /// Entries for established flows there is room for, of each IP family (a flow takes 2 to 4).
    #[arg(long, value_name = "ROWS", default_value_t = FlowCapacity::default().established)]
    max_flows: u32,
    /// Entries for flows that were not answered yet, likewise.
    #[arg(long, value_name = "ROWS", default_value_t = FlowCapacity::default().half_open)]
    max_half_open: u32,
    /// How programs are attached to devices: auto (tcx links where the kernel has them, Linux 6.6),
    /// tcx, clsact (filters).
    #[arg(long, value_name = "auto|tcx|clsact", default_value = "auto")]
    device_hooks: String,
    #[command(flatten)]
    servers: ServerFlags,
    #[command(flatten)]
    policy: PolicyFlags,
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("millrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    if !matches!(command, Command::Run(_)) {
        // `millrace services | head` should end quietly, as other commands do.
        // SAFETY: no other thread runs yet; SIG_DFL is a valid disposition.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    match command {
        Command::Run(args) => serve(*args)?,
        Command::Status(args) => return ctl::status::status(args.bpffs.as_deref(), args.output),
        Command::Services { service, read } => {
            ctl::services::services(read.bpffs.as_deref(), service.as_deref(), read.output)?;
        }
        Command::Flows { filter, read } => {
            ctl::flows::flows(read.bpffs.as_deref(), &filter.into(), read.output)?;
        }
        Command::Canary => millrace::canary::helper::run()?,
        Command::Cleanup { bpffs } => ctl::cleanup::cleanup(bpffs.as_deref())?,
        Command::Version { output } => ctl::version(output),
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(args: RunArgs) -> Result<()> {
    let filter =
        EnvFilter::try_from_env("MILLRACE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let config = args.config()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The loop, and one for the sources: a node's cores are for its pods.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let result = runtime.block_on(run::run(config));
    // Whoever stops us should not wait for a source in the middle of a read.
    runtime.shutdown_background();
    result
}

impl RunArgs {
    fn config(self) -> Result<Config> {
        let source = match self.manifests {
            Some(directory) => Source::Manifests(directory),
            None => Source::Kubernetes { kubeconfig: self.kubeconfig, api_server: self.api_server },
        };
        let capacity = Capacity {
            services: self.max_services,
            backends: self.max_backends,
            slots: self.max_slots,
            frontends: self.max_frontends,
            sources: self.max_source_ranges,
        };
        let flows = FlowCapacity { established: self.max_flows, half_open: self.max_half_open };
        for (flag, rows) in [
            ("--max-services", capacity.services),
            ("--max-backends", capacity.backends),
            ("--max-slots", capacity.slots),
            ("--max-frontends", capacity.frontends),
            ("--max-source-ranges", capacity.sources),
            ("--max-flows", flows.established),
            ("--max-half-open", flows.half_open),
        ] {
            if rows < 2 {
                bail!("{flag} {rows}: give at least 2");
            }
        }
        let policy = self.policy.policy()?;
        let servers = self.servers.addresses()?;
        Ok(Config {
            configz: configz::page(&policy, &servers),
            servers,
            source,
            node_name: node_name(self.node_name)?,
            cgroup_root: self.cgroup_root,
            bpffs: self.bpffs,
            capacity: rows::with_reserve(capacity),
            flows,
            policy,
            device_hooks: match self.device_hooks.as_str() {
                "auto" => None,
                "tcx" => Some(Means::Tcx),
                "clsact" => Some(Means::Clsact),
                other => bail!("--device-hooks {other}: write auto, tcx or clsact"),
            },
        })
    }
}

/// As kube-proxy: what is given or the host's name, trimmed and in lower case; blank is an error.
fn node_name(given: Option<String>) -> Result<String> {
    let name = match given {
        Some(name) => name,
        None => {
            std::fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?
        }
    };
    let name = name.trim().to_lowercase();
    if name.is_empty() {
        bail!("--node-name is blank: give the name of this node's Node object");
    }
    Ok(name)
}
