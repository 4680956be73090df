//! All automation of this repository: `cargo xtask <command>`.
//!
//! One file per command, in the order a newcomer meets them: [`setup`] installs what is missing,
//! [`build`] makes the BPF object and the binaries, [`demo`], [`lab`] and [`bench`] run them,
//! [`test`] checks everything, [`conformance`] is the part of it that is kube-proxy's, [`tidy`] the
//! part that reads the source text, [`fuzz`] the part that has no end, [`kernels`] the part that
//! boots other kernels than this machine's; [`image`] makes what a DaemonSet runs.
//! Underneath:
//! [`toolchain`] decides how Rust becomes BPF, [`apt`] and [`packages`] deal with Debian,
//! [`args`] reads words, [`command`] runs other programs, [`libtest`] reads what test binaries
//! print.

mod apt;
mod args;
mod bench;
mod build;
mod command;
mod conformance;
mod demo;
mod fuzz;
mod image;
mod kernels;
mod lab;
mod libtest;
mod linker;
mod packages;
mod setup;
mod test;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use anyhow::Result;

const USAGE: &str = "\
Usage: cargo xtask <command>

  setup                     find what is missing on this machine and install it (as root)
  setup --build-only        the same for building alone: no lab, no kernels
  build [--features F]      build the BPF object, then every binary
  demo [ARG...]             setup, build, then show a small cluster at work (--keep: leave it up)
  lab up                    setup, build, then a cluster of namespaces for a person
  lab exec|status|down ARG...
                            run a command in it, look at it, remove it
  bench [--quick] [--seed N] [--rounds N] [--only PART]... [--json FILE] [--html FILE]
                            what a Service costs beside none, and beside kube-proxy's rules
        [--kube-proxy PATH --kube-apiserver PATH --etcd PATH]
                            and beside a real kube-proxy
  bench --report FILE       make the documents' figures from a result
  test [--stage NAME]... [--kube-apiserver PATH --etcd PATH] [-- TEST-ARG...]
                            every check there is; ends with `N passed, N failed, N skipped`
                            stages: setup fmt tidy build clippy unit lab kernels deny
  conformance [--section N]... [--check|--write]
                            kube-proxy's own scenarios, ours beside them, run; --check compares
                            CONFORMANCE.md with them, --write makes it
  fuzz [--seconds N] [--seed N]
                            random frames through the loaded programs and the native build
  kernels [--kernel 5.10|6.1|6.12|newest]... [--update]
                            Millrace on Debian's kernels, in QEMU; fetches, never installs, them
  image [--tag NAME | --root DIR]
                            the container image, or the directory that becomes it
  tidy                      only the checks on the source text
  help                      this text

The BPF object goes to target/bpf/millrace-ebpf.o, the binaries to target/release.
MILLRACE_BPF_TOOLCHAIN=nightly|debian names the BPF compiler to take where both are there.
";

/// Exit code for a command line that makes no sense, as shells and getopt programs use it.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command named by the first argument with the rest of them.
fn dispatch(args: &[String]) -> Result<ExitCode> {
    let Some((name, rest)) = args.split_first() else {
        return Ok(usage_error("no command given"));
    };
    match name.as_str() {
        "setup" if rest.is_empty() => setup::run().map(|()| ExitCode::SUCCESS),
        "setup" if rest == ["--build-only"] => setup::for_build().map(|()| ExitCode::SUCCESS),
        "image" => image::run(rest).map(|()| ExitCode::SUCCESS),
        "build" => build::run(rest).map(|()| ExitCode::SUCCESS),
        "demo" => demo::run(rest),
        "lab" => lab::run(rest),
        "bench" => bench::run(rest),
        "test" => test::run(rest),
        "conformance" => conformance::run(rest),
        "fuzz" => fuzz::run(rest),
        "kernels" => kernels::run(rest),
        "tidy" if rest.is_empty() => tidy::run().map(|()| ExitCode::SUCCESS),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        "setup" | "tidy" => Ok(usage_error(&format!("`{name}` takes no arguments"))),
        _ => Ok(usage_error(&format!("unknown command `{name}`"))),
    }
}

fn usage_error(problem: &str) -> ExitCode {
    eprint!("xtask: {problem}\n\n{USAGE}");
    ExitCode::from(EXIT_USAGE)
}
