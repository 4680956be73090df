//! A kube-proxy process on a site's node.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, bail};
use millrace_tests::apiserver::real::{log_tail, spawn};
use millrace_tests::lab::{Family, Node, address};

/// Its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By iptables, the legacy one.
    Iptables,
    /// By nft.
    Nftables,
}

impl Mode {
    /// As `--proxy-mode` has it.
    const fn flag(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// A running one; ends with the value, its rules stay.
pub struct KubeProxy {
    child: Child,
    /// Its own, so that whom it starts is counted too.
    cgroup: PathBuf,
    log: PathBuf,
}

impl KubeProxy {
    /// Start it on a node.
    pub fn start(program: &Path, mode: Mode, node: &Node, kubeconfig: &Path) -> Result<Self> {
        let cgroup = node.agent_place().cgroup().join("kube-proxy");
        fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let mut command = node.agent_place().in_cgroup(cgroup.clone()).command(program);
        command.args(flags(mode, node.name(), kubeconfig));
        let tools = legacy_tools(&node.run_dir().join("iptables-legacy"))?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(tools).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(path).context("the PATH of kube-proxy")?);
        let log = node.run_dir().join("kube-proxy.log");
        Ok(Self { child: spawn(command, &log)?, cgroup, log })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of it and of all that it started, in microseconds.
    pub fn cpu_us(&self) -> Result<f64> {
        let path = self.cgroup.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        usage_us(&text).with_context(|| format!("no usage_usec in {}", path.display()))
    }

    /// Fails if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("ask for kube-proxy")? {
            None => Ok(()),
            Some(status) => bail!("kube-proxy ended with {status}; {}", self.said()),
        }
    }

    /// The end of what it wrote.
    pub fn said(&self) -> String {
        format!("its log ends:\n{}", log_tail(&self.log))
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // Whom it started goes with it, where the kernel knows how (5.14). It may be gone already.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// All defaults, but for what a namespace of its own asks for. No limits of conntrack: they belong
/// to the machine.
fn flags(mode: Mode, node: &str, kubeconfig: &Path) -> Vec<String> {
    let pods = [Family::V4, Family::V6].map(address::cluster_cidr).join(",");
    [
        ("kubeconfig", kubeconfig.display().to_string()),
        ("proxy-mode", mode.flag().to_owned()),
        ("hostname-override", node.to_owned()),
        // One that misses the pods would have their connections masqueraded.
        ("cluster-cidr", pods),
        ("conntrack-max-per-core", "0".to_owned()),
    ]
    .map(|(name, value)| format!("--{name}={value}"))
    .to_vec()
}

/// A directory where `iptables` and its kin are the legacy ones, as in the lanes of kube-proxy's
/// rules: the nft variant needs a minute for 5 000 Services.
fn legacy_tools(directory: &Path) -> Result<PathBuf> {
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let legacy = format!("{family}-legacy{suffix}");
            let found = std::env::split_paths(&path).map(|place| place.join(&legacy));
            let found = found.into_iter().find(|program| program.exists());
            let found = found.with_context(|| format!("no {legacy} (cargo xtask setup brings it)"));
            let link = directory.join(format!("{family}{suffix}"));
            symlink(found?, &link).with_context(|| format!("create {}", link.display()))?;
        }
    }
    Ok(directory.to_owned())
}

fn usage_us(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gets_the_flags_that_a_namespace_asks_for() {
        let flags = flags(Mode::Nftables, "n1", Path::new("/run/kube-proxy.kubeconfig"));
        let wanted = [
            "--kubeconfig=/run/kube-proxy.kubeconfig",
            "--proxy-mode=nftables",
            "--hostname-override=n1",
            "--cluster-cidr=10.244.0.0/16,fd00:244::/48",
            "--conntrack-max-per-core=0",
        ];
        assert_eq!(flags, wanted);
    }

    #[test]
    fn all_cpu_time_of_the_group_counts() {
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage_us(text), Some(1500.0));
        assert_eq!(usage_us("user_usec 1\n"), None);
    }
}
