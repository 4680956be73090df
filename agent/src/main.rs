//! The `millrace` binary: arguments in, exit code out.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use millrace::config;
use millrace::config::effective::Log;
use millrace::config::file::Recipe;
use millrace::config::finding::{Findings, Weight};
use millrace::config::flags::ConfigFlags;
use millrace::config::merge::GivenFlag;
use millrace::ctl::flows::Filter;
use millrace::ctl::{self, Output};
use millrace::run::{self, Start};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

/// What is logged unless the operator says otherwise. The client's own lines repeat at every
/// retry what we say once.
const DEFAULT_LOG: &str = "info,kube_client=off";
/// kube-proxy's `-v` from which on we say more: there, 4 is "debug" and 6 shows requests.
const DEBUG_VERBOSITY: i64 = 4;
/// The same for everything.
const TRACE_VERBOSITY: i64 = 6;

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
    Run(ConfigFlags),
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
    /// Check a configuration, or explain it.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
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

#[derive(Subcommand)]
enum ConfigCommand {
    /// Every error, warning and note. Exit code 1: there are errors.
    Check(ExplainArgs),
    /// Every setting: its value, where that comes from, and what it does here.
    Print(ExplainArgs),
}

#[derive(Args)]
struct ExplainArgs {
    /// The configuration, as --config.
    #[arg(value_name = "FILE")]
    file: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: ctl::config::Output,
    #[command(flatten)]
    flags: ConfigFlags,
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
        Command::Run(flags) => return serve(flags),
        Command::Config { command } => {
            let (args, is_check) = match command {
                ConfigCommand::Check(args) => (args, true),
                ConfigCommand::Print(args) => (args, false),
            };
            let mut given = args.flags.given;
            if let Some(file) = args.file {
                given.retain(|flag| flag.name != "--config");
                given.push(GivenFlag { name: "--config", values: vec![file] });
            }
            let recipe = Recipe::of(given);
            return if is_check {
                ctl::config::check(&recipe, args.output)
            } else {
                ctl::config::print(&recipe, args.output)
            };
        }
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

/// `millrace run`, and what kube-proxy does instead with some flags.
fn serve(flags: ConfigFlags) -> Result<ExitCode> {
    let recipe = Recipe::of(flags.given);
    if recipe.asks("--version") {
        ctl::version(Output::Text);
        return Ok(ExitCode::SUCCESS);
    }
    let text = recipe.read()?;
    let (config, findings) = recipe.resolve(text.as_deref())?;
    let Some(config) = config else { bail!("{}", findings.errors()) };
    if let Some(path) = recipe.value("--write-config-to") {
        ctl::config::write(&config, Path::new(path))?;
        return Ok(ExitCode::SUCCESS);
    }
    if recipe.asks("--cleanup") {
        ctl::cleanup::cleanup(config.bpffs.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    start_log(&config.log)?;
    say(&findings);
    if let Some(score) = config.oom_score_adj {
        adjust_oom_score(score);
    }
    let (sender, changes) = mpsc::channel(1);
    let is_init = recipe.asks("--init-only");
    if !is_init {
        config::watch::follow(recipe, text, sender)?;
    }
    let start = Start { config, findings, changes };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // The loop, and one for the sources: a node's cores are for its pods.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let result =
        if is_init { run::prepare(&start.config) } else { runtime.block_on(run::run(start)) };
    // Whoever stops us should not wait for a source in the middle of a read.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

fn start_log(log: &Log) -> Result<()> {
    let filter = match (&log.filter, log.verbosity) {
        (Some(filter), _) => filter.as_str(),
        (None, ..DEBUG_VERBOSITY) => DEFAULT_LOG,
        (None, DEBUG_VERBOSITY..TRACE_VERBOSITY) => "debug,kube_client=off",
        (None, _) => "trace,kube_client=off",
    };
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("MILLRACE_LOG {filter:?}: write debug, or MODULE=debug,info"))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if log.json {
        lines.json().init();
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}

fn say(findings: &Findings) {
    for finding in findings.of(Weight::Warning) {
        tracing::warn!("{}: {}", finding.place, finding.message);
    }
    for finding in findings.of(Weight::Note) {
        tracing::info!("{}: {}", finding.place, finding.message);
    }
}

/// As kube-proxy: not having the right to is no reason not to serve.
fn adjust_oom_score(score: i64) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::info!(score, "oom_score_adj stays as it was: {error}");
    }
}
