//! Running other programs: where the repository is, a clean environment, output kept or passed on.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A person who sees nothing for longer than this starts to wonder.
const HEARTBEAT_SECS: u64 = 15;

/// How often a quiet child is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);

/// Lines of a failed program's output shown on the terminal; the log file has all of them.
const LOG_TAIL_LINES: usize = 25;

/// What `cargo run` sets for xtask itself. Left in place, build scripts that watch these variables
/// (ring's does) would see other values than under a plain `cargo build`, and everything above them
/// would be compiled again at each change between the two.
const OUTER_CARGO_PREFIXES: &[&str] = &[
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_CFG_",
    "CARGO_FEATURE_",
];
const OUTER_CARGO_NAMES: &[&str] =
    &["CARGO", "CARGO_PRIMARY_PACKAGE", "OUT_DIR", "RUST_RECURSION_COUNT", "LD_LIBRARY_PATH"];

/// The repository's root: the parent of this crate.
pub fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or(xtask.clone(), Path::to_path_buf)
}

/// Where cargo puts what it builds for user space.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// A binary made by `cargo xtask build`.
pub fn release_binary(name: &str) -> PathBuf {
    target_dir().join("release").join(name)
}

/// A binary as the image has it: see [`crate::build::shipped`].
pub fn shipped_binary(name: &str) -> PathBuf {
    target_dir().join(crate::build::SHIPPED).join(name)
}

/// The cargo that runs us, at the repository's root, without the variables it set for us.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    remove_variables(&mut command, |name| {
        OUTER_CARGO_NAMES.contains(&name)
            || OUTER_CARGO_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    });
    command
}

/// Takes every variable that `unwanted` picks out of the command's environment.
pub fn remove_variables(command: &mut Command, unwanted: impl Fn(&str) -> bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(&unwanted) {
            command.env_remove(name);
        }
    }
}

/// Finds a program in `PATH`, and in the directories of system programs that a user's lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// What a short command prints, or `None` when it cannot run or fails.
pub fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    output_of(Command::new("id").arg("-u")).is_some_and(|uid| uid.trim() == "0")
}

/// Runs a command with its output on the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", describe(command));
    }
    Ok(())
}

/// A duration for people: `0.4 s`, `75.2 s`, `12 min 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 120 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {:02} s", whole / 60, whole % 60)
}

/// The command as one would type it.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A log file for long, talkative commands.
pub struct Log {
    /// Begins each line on the terminal.
    label: &'static str,
    path: PathBuf,
}

impl Log {
    /// Starts an empty log of the command `label`.
    pub fn create(label: &'static str, path: PathBuf) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        File::create(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { label, path })
    }

    /// Runs a command whose output goes to the log only. Says now and then on the terminal how long
    /// it has taken and what it is at; shows the log's end when it fails.
    pub fn run(&self, title: &str, command: &mut Command) -> Result<()> {
        let label = self.label;
        eprintln!("{label}: {title} ...");
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        writeln!(file, "\n$ {}", describe(command))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", describe(command)))?;
        let start = Instant::now();
        let mut next_beat = HEARTBEAT_SECS;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed().as_secs() >= next_beat {
                eprintln!("{label}: {title}: {next_beat} s so far: {}", self.last_line());
                next_beat += HEARTBEAT_SECS;
            }
            std::thread::sleep(POLL);
        };
        if !status.success() {
            bail!(
                "{title} failed ({status}):\n{}\nAll of its output: {}",
                self.tail(),
                self.path.display()
            );
        }
        eprintln!("{label}: {title}: done in {}", seconds(start.elapsed()));
        Ok(())
    }

    /// The end of the log, indented.
    pub fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LOG_TAIL_LINES);
        lines[first..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
    }

    fn last_line(&self) -> String {
        let text = self.text();
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        last.trim().chars().take(70).collect()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(725)), "12 min 05 s");
    }

    #[test]
    fn a_failing_command_shows_the_end_of_its_log() {
        let path = env::temp_dir().join(format!("xtask-log-{}", std::process::id()));
        let log = Log::create("test", path.clone()).unwrap();
        let script = "for i in $(seq 40); do echo line $i; done; exit 3";
        let error = log.run("counting", Command::new("sh").args(["-c", script])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("line 40") && text.contains("exit status: 3"), "{text}");
        assert!(!text.contains("line 2\n"), "{text}");
        fs::remove_file(path).unwrap();
    }
}
