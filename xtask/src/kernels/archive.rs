//! Debian's archive seen through a private window: lists and downloads of our own, for any of its
//! releases; the system's sources, lists and packages stay as they are. Root is not needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::command::{self, Log};
use crate::packages::{KERNEL, KERNEL_PARTS};

/// Taken where the system's own sources name no mirror of Debian's.
const MIRROR: &str = "http://deb.debian.org/debian";
/// Keys of every release.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Written last, so a directory that has it is complete: the kernel's `uname -r`.
const RELEASE_FILE: &str = "release";

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// What boots.
    pub vmlinuz: PathBuf,
    /// The directory with its modules somewhere below.
    pub modules: PathBuf,
}

impl Kernel {
    fn open(dir: &Path) -> Option<Self> {
        let release = fs::read_to_string(dir.join(RELEASE_FILE)).ok()?.trim().to_owned();
        let root = dir.join("root");
        // Up to 6.12 the image is in /boot and modules are in /lib; since then, both are in /usr.
        let modules = ["lib/modules", "usr/lib/modules"]
            .map(|place| root.join(place).join(&release))
            .into_iter()
            .find(|place| place.is_dir())?;
        let vmlinuz = [root.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")]
            .into_iter()
            .find(|file| file.is_file())?;
        Some(Self { release, vmlinuz, modules })
    }
}

/// The newest cloud kernel of a release: the one fetched before, unless a look for a newer one is
/// wanted.
pub fn kernel(name: &str, suite: &str, update: bool, log: &Log) -> Result<Kernel> {
    let dir = super::cache_dir().join(name);
    if !update && let Some(kernel) = Kernel::open(&dir) {
        return Ok(kernel);
    }
    let view = View::open(&dir.join("view"), &[suite], log)?;
    let image = first_dependency(&view.show(KERNEL)?, &["linux-image-"])
        .with_context(|| format!("{KERNEL} of {suite} names no kernel"))?;
    let release = image.trim_start_matches("linux-image-").to_owned();
    let parts = dependencies(&view.show(&image)?, KERNEL_PARTS);
    if let Some(kernel) = Kernel::open(&dir).filter(|kernel| kernel.release == release) {
        return Ok(kernel);
    }
    let (root, marker) = (dir.join("root"), dir.join(RELEASE_FILE));
    let packages: Vec<_> = std::iter::once(image).chain(parts).collect();
    let files = view.download(&packages, log)?;
    let _ = fs::remove_file(&marker);
    unpack(&files, &root)?;
    fs::write(&marker, &release).with_context(|| format!("write {}", marker.display()))?;
    view.remove();
    Kernel::open(&dir).with_context(|| format!("{release} has no vmlinuz or no modules"))
}

/// The program of a package of the system's own release with all it needs and the system lacks,
/// unpacked below `root`.
pub fn unpack_program(package: &str, root: &Path, log: &Log) -> Result<()> {
    let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = crate::apt::codename(&os_release);
    let dir = root.with_extension("view");
    let newer = format!("{codename}-backports");
    let view = View::open(&dir, &[codename, &newer], log)
        .or_else(|_| View::open(&dir, &[codename], log))?;
    // Backports are taken only when they are asked for by name.
    let wanted = if view.suites.contains(&newer) { newer.as_str() } else { codename };
    let mut install = view.apt("apt-get");
    // NoLocking: nothing of the system's is written, so root is not needed.
    install.args(["install", "-y", "--no-install-recommends", "--download-only"]);
    install.args(["-o", "Debug::NoLocking=1", "-t", wanted, package]);
    fetch(&format!("fetching {package} from {wanted}"), &mut install, log)?;
    let files = debs_in(&view.dir.join("cache/archives"))?;
    unpack(&files, root)?;
    view.remove();
    Ok(())
}

/// Runs one of apt's commands. A failure is the reason why a kernel is skipped: one line of it.
fn fetch(title: &str, apt: &mut Command, log: &Log) -> Result<()> {
    log.run(title, apt).map_err(|_| {
        let tail = log.tail();
        let said = tail.lines().map(str::trim).find(|line| line.starts_with("E: "));
        anyhow!("{title} failed: {}", said.unwrap_or("see target/kernels/fetch.log"))
    })
}

/// Some releases of Debian, and nothing else, as apt's world.
struct View {
    dir: PathBuf,
    suites: Vec<String>,
}

impl View {
    /// Fetches the lists.
    fn open(dir: &Path, suites: &[&str], log: &Log) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            ensure!(command::find_program(program).is_some(), "{program} is not here to fetch it");
        }
        let _ = fs::remove_dir_all(dir);
        for place in ["lists/partial", "cache/archives/partial", "debs"] {
            let place = dir.join(place);
            fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
        }
        let mirror = mirror();
        let source = |suite: &&str| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(dir.join("sources.list"), suites.iter().map(source).collect::<String>())?;
        let suites = suites.iter().map(ToString::to_string).collect();
        let view = Self { dir: dir.to_owned(), suites };
        let mut update = view.apt("apt-get");
        // A list that cannot be had is otherwise only a warning.
        update.args(["update", "--error-on=any"]);
        let title = format!("fetching package lists of {}", view.suites.join(", "));
        fetch(&title, &mut update, log)?;
        Ok(view)
    }

    fn apt(&self, program: &str) -> Command {
        let at = |what: &str, place: &str| format!("{what}={}", self.dir.join(place).display());
        let mut apt = Command::new(program);
        apt.current_dir(self.dir.join("debs")).env("LC_ALL", "C");
        for option in [
            at("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            at("Dir::State::lists", "lists"),
            at("Dir::Cache", "cache"),
            "Acquire::Languages=none".to_owned(),
            // Offline, this should be found out soon.
            "Acquire::Retries=1".to_owned(),
            "Acquire::http::Timeout=15".to_owned(),
            // apt's own user may not be allowed to write below this directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            apt.args(["-o", &option]);
        }
        apt
    }

    /// What is known of a package.
    fn show(&self, package: &str) -> Result<String> {
        let mut show = self.apt("apt-cache");
        show.args(["show", "--no-all-versions", package]);
        command::output_of(&mut show)
            .with_context(|| format!("{} has no package {package}", self.suites.join(", ")))
    }

    /// The packages' files.
    fn download(&self, packages: &[String], log: &Log) -> Result<Vec<PathBuf>> {
        let mut download = self.apt("apt-get");
        download.arg("download").args(packages);
        fetch(&format!("fetching {}", packages[0]), &mut download, log)?;
        debs_in(&self.dir.join("debs"))
    }

    /// Lists and packages take more room than what is made of them.
    fn remove(self) {
        // What is left does no harm: it is below target.
        let _ = fs::remove_dir_all(self.dir);
    }
}

/// The mirror that the system's own sources name.
fn mirror() -> String {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let text = command::output_of(&mut targets).unwrap_or_default();
    let debian = text.lines().map(|uri| uri.trim().trim_end_matches('/'));
    debian.into_iter().find(|uri| uri.ends_with("/debian")).unwrap_or(MIRROR).to_owned()
}

fn debs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|ext| ext == "deb")).collect();
    if files.is_empty() {
        bail!("apt-get brought nothing to {}", dir.display());
    }
    Ok(files)
}

fn unpack(files: &[PathBuf], root: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
    let start = Instant::now();
    for file in files {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("-x").arg(file).arg(root);
        command::output_of(&mut dpkg)
            .with_context(|| format!("{} failed", command::describe(&dpkg)))?;
    }
    let (count, time) = (files.len(), command::seconds(start.elapsed()));
    eprintln!("kernels: unpacked {count} packages into {} in {time}", root.display());
    Ok(())
}

/// Names in a package's `Depends` that begin with one of these.
fn dependencies(stanza: &str, prefixes: &[&str]) -> Vec<String> {
    let depends = stanza.lines().find_map(|line| line.strip_prefix("Depends: "));
    let names = depends.unwrap_or_default().split([',', '|']).filter_map(|entry| {
        // `name (= version)`
        entry.split_whitespace().next()
    });
    let wanted = |name: &&str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    names.filter(wanted).map(str::to_owned).collect()
}

fn first_dependency(stanza: &str, prefixes: &[&str]) -> Option<String> {
    dependencies(stanza, prefixes).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_meta_package_depends_on() {
        let stanza = "Package: linux-image-cloud-amd64\nDepends: linux-base-cloud-amd64 \
                      (= 7.2.13-1), linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\n";
        let image = first_dependency(stanza, &["linux-image-"]);
        assert_eq!(image.as_deref(), Some("linux-image-7.2.13+deb14-cloud-amd64"));
        assert_eq!(first_dependency("Package: x\n", &["linux-image-"]), None);
    }

    #[test]
    fn a_kernel_in_parts_is_fetched_in_parts() {
        let stanza = "Depends: dracut | initramfs-tools (>= 0.120), linux-base-7.2 (= 1), \
                      linux-binary-7.2 (= 1), linux-modules-7.2 (= 1)\n";
        assert_eq!(dependencies(stanza, KERNEL_PARTS), ["linux-binary-7.2", "linux-modules-7.2"]);
        assert_eq!(dependencies("Depends: kmod, linux-base (>= 4.3~)\n", KERNEL_PARTS), [""; 0]);
    }
}
