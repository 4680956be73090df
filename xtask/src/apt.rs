//! Debian packages: which are missing, and installing them without starting any service.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::{self, Log};
use crate::packages::{DAEMONS, Package};

/// How long to wait for another apt or dpkg to finish.
const LOCK_WAIT_SECS: u64 = 300;
const LOCK_RETRY: Duration = Duration::from_secs(10);

/// Debian asks this program before a package's script starts a service (invoke-rc.d and
/// deb-systemd-invoke both do).
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_MARK: &str =
    "# Put here by millrace's `cargo xtask setup` while it installs packages.";

/// The packages of `wanted` that are not here, each once. One dpkg-query for all of them.
pub fn missing(wanted: &[Package]) -> Vec<Package> {
    let installed = installed(wanted);
    let mut seen = BTreeSet::new();
    let absent = |package: &&Package| {
        let here = installed.contains(package.name)
            || package.program.is_some_and(|name| command::find_program(name).is_some());
        !here && seen.insert(package.name)
    };
    wanted.iter().filter(absent).copied().collect()
}

fn installed(wanted: &[Package]) -> BTreeSet<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${db:Status-Abbrev}${Package}\n"]);
    query.args(wanted.iter().map(|package| package.name));
    // It fails when it does not know one of the names, and still prints the others.
    let output = query.output().map(|output| output.stdout).unwrap_or_default();
    parse_installed(&String::from_utf8_lossy(&output))
}

/// Reads lines such as `ii gcc`: status, then name.
fn parse_installed(text: &str) -> BTreeSet<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("ii"));
    names.map(|name| name.trim().to_owned()).collect()
}

/// The line a person without root has to have run.
pub fn install_line(packages: &[Package]) -> String {
    format!("apt-get update && apt-get install -y --no-install-recommends {}", names(packages))
}

/// The packages' names with blanks between.
pub fn names(packages: &[Package]) -> String {
    packages.iter().map(|package| package.name).collect::<Vec<_>>().join(" ")
}

/// Whether this machine has Debian's package tools at all.
pub fn available() -> bool {
    command::find_program("apt-get").is_some() && command::find_program("dpkg-query").is_some()
}

/// Installs packages as root; services among them are neither started nor enabled.
pub fn install(packages: &[Package], log: &Log) -> Result<()> {
    update(log);
    check_compiler_version(packages)?;
    let title = match packages.len() {
        1 => format!("installing {}", packages[0].name),
        count => format!("installing {count} Debian packages"),
    };
    let policy = ServicePolicy::forbid()?;
    let mut apt = apt_get();
    // Taking something away from a person's machine is theirs to decide.
    apt.args(["install", "-y", "--no-install-recommends", "--no-remove"]);
    apt.args(packages.iter().map(|package| package.name));
    let result = log.run(&title, &mut apt);
    drop(policy);
    disable_daemons(packages);
    result
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.args(["-o", &format!("DPkg::Lock::Timeout={LOCK_WAIT_SECS}")]);
    apt.args(["-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"]);
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    apt.env("APT_LISTCHANGES_FRONTEND", "none").env("NEEDRESTART_SUSPEND", "1");
    apt
}

/// Fetches the package lists. A third party's broken source must not stop us, so a failure is only
/// told: the installation decides. apt's lock time-out does not cover the lists' lock.
fn update(log: &Log) {
    let start = Instant::now();
    loop {
        let Err(error) = log.run("fetching package lists", apt_get().arg("update")) else { return };
        let locked = log.tail().contains("Could not get lock");
        if !locked || start.elapsed().as_secs() > LOCK_WAIT_SECS {
            eprintln!("setup: {error:#}\nsetup: going on with the package lists there are");
            return;
        }
        eprintln!("setup: another apt is at work; trying again");
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Stops when the rustc-web to be had is none or too old, which means that the security archive is
/// not among apt's sources: the first releases of bookworm had 1.63 to 1.85.
fn check_compiler_version(packages: &[Package]) -> Result<()> {
    if !packages.iter().any(|package| package.name == "rustc-web") {
        return Ok(());
    }
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", "rustc-web"]).env("LC_ALL", "C");
    let text = command::output_of(&mut policy).unwrap_or_default();
    let candidate = candidate(&text);
    if candidate.and_then(crate::toolchain::minor_version) >= Some(crate::toolchain::RUST_MINOR) {
        return Ok(());
    }
    let found = candidate.map_or("none".to_owned(), |version| format!("only {version}"));
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    bail!("{}", no_compiler(&found, codename(&release)));
}

/// What to do where apt has no good rustc-web.
fn no_compiler(found: &str, codename: &str) -> String {
    let or_nightly = "a nightly toolchain does as well:\n    \
        rustup toolchain install nightly --component rust-src\n    \
        cargo install bpf-linker";
    if codename == "bookworm" {
        return format!(
            "rustc-web 1.{} or newer is needed and apt has {found}: it comes from \
             bookworm-security. Add this line to /etc/apt/sources.list and run again:\n    \
             deb http://deb.debian.org/debian-security bookworm-security main\n\
             Or {or_nightly}",
            crate::toolchain::RUST_MINOR
        );
    }
    format!(
        "rustc-web 1.{} or newer is needed and apt has {found} on {codename}; {or_nightly}",
        crate::toolchain::RUST_MINOR
    )
}

/// The version apt would install, from `apt-cache policy`.
fn candidate(policy: &str) -> Option<&str> {
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim()).filter(|version| *version != "(none)")
}

/// The name of the system's release, from /etc/os-release.
pub fn codename(os_release: &str) -> &str {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.map_or("this system", |name| name.trim_matches('"'))
}

/// Keeps the services that have just been installed from starting with the next boot.
fn disable_daemons(packages: &[Package]) {
    if command::find_program("systemctl").is_none() {
        return;
    }
    for (_, unit) in DAEMONS.iter().filter(|(name, _)| packages.iter().any(|p| p.name == *name)) {
        let disabled = Command::new("systemctl").args(["--quiet", "disable", unit]).output();
        if disabled.is_ok_and(|output| output.status.success()) {
            eprintln!("setup: {unit} is installed and disabled; only the lab uses it");
        }
    }
}

/// While it lives, package scripts are told not to start services.
struct ServicePolicy {
    file: Option<PathBuf>,
}

impl ServicePolicy {
    /// Puts the policy in place, unless the machine has one of its own (containers do).
    fn forbid() -> Result<Self> {
        Self::forbid_at(Path::new(POLICY))
    }

    fn forbid_at(path: &Path) -> Result<Self> {
        let foreign = fs::read_to_string(path).is_ok_and(|text| !text.contains(POLICY_MARK));
        if foreign {
            eprintln!("setup: {} is there and stays in force", path.display());
            return Ok(Self { file: None });
        }
        fs::write(path, policy_script(std::process::id()))
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Self { file: Some(path.to_path_buf()) })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(file) = &self.file
            && let Err(error) = fs::remove_file(file)
        {
            eprintln!("setup: cannot remove {}: {error}; please do", file.display());
        }
    }
}

/// The policy forbids only while the xtask that wrote it is alive, and takes itself away
/// otherwise: a killed setup must not leave the machine unable to start services.
fn policy_script(pid: u32) -> String {
    format!(
        "#!/bin/sh\n{POLICY_MARK}\n\
         case \"$(cat /proc/{pid}/comm 2>/dev/null)\" in xtask*) exit 101 ;; esac\n\
         rm -f \"$0\"\nexit 0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::LAB;

    #[test]
    fn reads_dpkg_status_lines() {
        let text = "ii gcc\nrc nginx\nun redis-server\nii libzstd-dev\n";
        let expected = ["gcc", "libzstd-dev"].map(str::to_owned);
        assert_eq!(parse_installed(text), BTreeSet::from(expected));
    }

    #[test]
    fn a_package_wanted_twice_is_missing_once() {
        let absent = Package { name: "no-such-package", program: None, why: "test" };
        assert_eq!(missing(&[absent, absent]), [absent]);
    }

    #[test]
    fn a_program_from_elsewhere_is_good_enough() {
        let shell = Package { name: "no-such-package", program: Some("sh"), why: "test" };
        assert_eq!(missing(&[shell]), []);
    }

    #[test]
    fn the_line_to_run_names_every_package() {
        let line = install_line(LAB);
        assert!(line.starts_with("apt-get update && apt-get install -y"));
        assert!(LAB.iter().all(|package| line.contains(package.name)));
    }

    #[test]
    fn reads_the_candidate_and_the_codename() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1~deb12u2\n";
        assert_eq!(candidate(policy), Some("1.96.0+dfsg1-1~deb12u2"));
        assert_eq!(candidate("rustc-web:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n"), "bookworm");
    }

    #[test]
    fn a_missing_security_source_is_named() {
        let text = no_compiler("only 1.85.0", "bookworm");
        assert!(text.contains("deb http://deb.debian.org/debian-security bookworm-security main"));
        assert!(no_compiler("none", "trixie").contains("--component rust-src"));
    }

    /// Not executed directly: a test that forks meanwhile may hold the file open for writing.
    fn run(script: &Path) -> Option<i32> {
        Command::new("sh").arg(script).status().unwrap().code()
    }

    #[test]
    fn the_policy_forbids_while_we_live_and_goes_with_us() {
        let path = std::env::temp_dir().join(format!("xtask-policy-{}", std::process::id()));
        let policy = ServicePolicy::forbid_at(&path).unwrap();
        assert_eq!(run(&path), Some(101));
        drop(policy);
        assert!(!path.exists());
    }

    #[test]
    fn the_policy_of_a_killed_setup_removes_itself() {
        let path = std::env::temp_dir().join(format!("xtask-stale-{}", std::process::id()));
        // No process has this id: the kernel's limit is 2^22.
        fs::write(&path, policy_script(1 << 23)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(run(&path), Some(0));
        assert!(!path.exists());
    }

    #[test]
    fn a_foreign_policy_is_left_alone() {
        let path = std::env::temp_dir().join(format!("xtask-foreign-{}", std::process::id()));
        fs::write(&path, "#!/bin/sh\nexit 101\n").unwrap();
        drop(ServicePolicy::forbid_at(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 101\n");
        fs::remove_file(path).unwrap();
    }
}
