//! The programs that the command line names: all three, or none.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::options::Options;

/// What a run without them says.
pub const HINT: &str = "kube-proxy's rules are measured, a real kube-proxy is not: \
    --kube-proxy PATH --kube-apiserver PATH --etcd PATH give it lanes of its own";
/// The first Kubernetes 1.x whose kube-proxy has a mode nftables (KEP-3866).
const NFTABLES_SINCE: u32 = 29;
/// Any of the bits that let somebody execute a file.
const EXECUTABLE: u32 = 0o111;

/// kube-proxy, and what feeds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Measured.
    pub kube_proxy: PathBuf,
    /// Feeds it.
    pub kube_apiserver: PathBuf,
    /// Stores what the API server knows.
    pub etcd: PathBuf,
}

impl Given {
    /// Those that the command line names; nothing: it names none.
    pub fn of(options: &Options) -> Result<Option<Self>> {
        let flags = [
            ("--kube-proxy", &options.kube_proxy),
            ("--kube-apiserver", &options.kube_apiserver),
            ("--etcd", &options.etcd),
        ];
        let named = |given: bool| -> String {
            let of_kind = flags.iter().filter(|(_, path)| path.is_some() == given);
            of_kind.map(|(flag, _)| *flag).collect::<Vec<_>>().join(" and ")
        };
        let [Some(kube_proxy), Some(kube_apiserver), Some(etcd)] = flags.map(|(_, path)| path)
        else {
            if flags.iter().all(|(_, path)| path.is_none()) {
                return Ok(None);
            }
            let (given, missing) = (named(true), named(false));
            bail!("{given} without {missing}: a real kube-proxy needs all three, each with a PATH");
        };
        Ok(Some(Self {
            kube_proxy: executable("--kube-proxy", kube_proxy)?,
            kube_apiserver: executable("--kube-apiserver", kube_apiserver)?,
            etcd: executable("--etcd", etcd)?,
        }))
    }

    /// What they say of themselves, as (name, version).
    pub fn versions(&self) -> Vec<(String, String)> {
        let programs = [
            ("kube-proxy", &self.kube_proxy),
            ("kube-apiserver", &self.kube_apiserver),
            ("etcd", &self.etcd),
        ];
        programs.map(|(name, path)| (name.to_owned(), version(path))).to_vec()
    }

    /// Whether this kube-proxy can be asked for nftables; one that does not tell its version is.
    pub fn has_nftables(&self) -> bool {
        knows_nftables(&version(&self.kube_proxy))
    }
}

fn knows_nftables(version: &str) -> bool {
    minor(version).is_none_or(|minor| minor >= NFTABLES_SINCE)
}

/// What a program says of itself.
fn version(path: &Path) -> String {
    let output = Command::new(path).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let line = text.lines().next().unwrap_or("of an unknown version");
    line.trim_start_matches("etcd Version:").trim().to_owned()
}

/// The 36 of "Kubernetes v1.36.2".
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("Kubernetes v1.")?.split('.').next()?.parse().ok()
}

/// The whole path of a flag's file, if that can be executed.
fn executable(flag: &str, path: &Path) -> Result<PathBuf> {
    let shown = format!("{flag} {}", path.display());
    let look = || Ok((path.canonicalize()?, path.metadata()?));
    let (whole, metadata) = match look() {
        Ok(found) => found,
        // One line: it is the command line that is wrong.
        Err::<_, std::io::Error>(error) => bail!("{shown}: {error}"),
    };
    ensure!(metadata.is_file(), "{shown}: not a file");
    let mode = metadata.permissions().mode();
    ensure!(mode & EXECUTABLE != 0, "{shown}: not executable; chmod +x makes it so");
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn given(line: &str) -> Result<Option<Given>> {
        Given::of(&Options::try_parse_from(line.split_whitespace()).unwrap())
    }

    fn refusal(line: &str) -> String {
        format!("{:#}", given(line).unwrap_err())
    }

    #[test]
    fn all_three_or_none() {
        assert_eq!(given("bench --quick").unwrap(), None);
        let all = "bench --kube-proxy /bin/sh --kube-apiserver /bin/sh --etcd /bin/sh";
        let found = given(all).unwrap().unwrap();
        assert_eq!(found.etcd, Path::new("/bin/sh").canonicalize().unwrap());
        let two = refusal("bench --kube-proxy /bin/sh --etcd /bin/sh");
        assert!(two.starts_with("--kube-proxy and --etcd without --kube-apiserver: "), "{two}");
        let one = refusal("bench --etcd /bin/sh");
        assert!(one.starts_with("--etcd without --kube-proxy and --kube-apiserver: "), "{one}");
    }

    #[test]
    fn older_ones_have_no_nftables() {
        assert!(!knows_nftables("Kubernetes v1.28.15"));
        assert!(knows_nftables("Kubernetes v1.29.0-alpha.1"));
        assert!(knows_nftables("Kubernetes v1.36.2"));
        assert!(knows_nftables("of an unknown version"));
    }

    #[test]
    fn what_cannot_be_executed_is_named() {
        let line = |etcd: &str| {
            refusal(&format!("bench --kube-proxy /bin/sh --kube-apiserver /bin/sh --etcd {etcd}"))
        };
        assert!(line("/nowhere/etcd").starts_with("--etcd /nowhere/etcd: No such file"));
        assert!(line("/etc/passwd").starts_with("--etcd /etc/passwd: not executable"));
        assert_eq!(line("/etc"), "--etcd /etc: not a file");
    }
}
