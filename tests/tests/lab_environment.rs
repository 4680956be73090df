//! A node or a command line that will not do: each has its own words and exit code, and nothing is
//! left behind.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{self, Agent, Refusal, Source};
use millrace_tests::apiserver::ApiServer;
use millrace_tests::lab::{Families, Family, Lab};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach};
use serde_json::json;

/// To look at what was given and refuse it, on a busy machine.
const REFUSAL_LIMIT: Duration = Duration::from_secs(5);
/// The agent's exit codes.
const FAILED: Option<i32> = Some(1);
const WRONG_ARGUMENTS: Option<i32> = Some(2);

/// A node without anything on it.
fn bare() -> Result<Lab> {
    Lab::builder().families(Families::V4).build()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// Arguments of a sound `run` on the node, as (flag, value).
fn sound(lab: &Lab) -> Vec<(&'static str, String)> {
    let node = lab.node("n1");
    vec![
        ("--manifests", path_text(&node.manifests())),
        ("--node-name", node.name().to_owned()),
        ("--cgroup-root", path_text(node.cgroup_root())),
        ("--bpffs", path_text(node.bpffs())),
    ]
}

/// Runs the agent, which must refuse and leave nothing in bpffs.
fn refusal(lab: &Lab, arguments: &[(&str, String)]) -> Result<Refusal> {
    let words = arguments.iter().flat_map(|(flag, value)| [*flag, value.as_str()]);
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let node = lab.node("n1");
    let refusal = Agent::prepare_bare(node, &words).refuses(REFUSAL_LIMIT)?;
    let left: Vec<_> = std::fs::read_dir(node.bpffs())?.flatten().map(|e| e.path()).collect();
    ensure!(left.is_empty(), "{words:?} left {left:?}: {refusal:?}");
    Ok(refusal)
}

/// Sound arguments but for one flag; the refusal must have this code and all of these words.
fn refuses(
    lab: &Lab,
    flag: &'static str,
    value: &str,
    code: Option<i32>,
    words: &[&str],
) -> Result<()> {
    let mut arguments = sound(lab);
    arguments.retain(|(other, _)| *other != flag);
    arguments.push((flag, value.to_owned()));
    expect(&refusal(lab, &arguments)?, code, words).with_context(|| format!("{flag} {value:?}"))
}

fn expect(refusal: &Refusal, code: Option<i32>, words: &[&str]) -> Result<()> {
    ensure!(refusal.code == code, "{refusal:?}");
    for word in words {
        ensure!(refusal.said.contains(word), "no {word:?}: {refusal:?}");
    }
    // A person reads this: one message, no panic, no backtrace.
    ensure!(!refusal.said.contains("panicked"), "{refusal:?}");
    Ok(())
}

#[test]
fn a_cgroup_root_that_is_none_is_refused() -> Result<()> {
    let lab = bare()?;
    for (path, words) in [
        ("/proc", ["--cgroup-root /proc", "not a cgroup2 directory"]),
        ("/nowhere/cgroup", ["--cgroup-root /nowhere/cgroup", "No such file or directory"]),
    ] {
        refuses(&lab, "--cgroup-root", path, FAILED, &words)?;
    }
    let file = path_text(&lab.node("n1").cgroup_root().join("cgroup.procs"));
    refuses(&lab, "--cgroup-root", &file, FAILED, &["--cgroup-root", "not a cgroup2 directory"])
}

#[test]
fn a_place_for_pins_that_is_none_is_refused() -> Result<()> {
    let lab = bare()?;
    let run = lab.node("n1").run_dir();
    let words = ["not on a BPF file system", "--bpffs"];
    refuses(&lab, "--bpffs", &path_text(run), FAILED, &words)?;
    let missing = run.join("not/there");
    refuses(&lab, "--bpffs", &path_text(&missing), FAILED, &words)?;
    ensure!(!run.join("not").exists(), "it was made");
    Ok(())
}

/// Whatever the source, the agent must not make a single map before it knows that it can be read.
#[test]
fn a_source_that_cannot_be_read_is_refused() -> Result<()> {
    let lab = bare()?;
    let run = lab.node("n1").run_dir().to_owned();
    let missing = path_text(&run.join("no-manifests"));
    let words = ["--manifests", &missing, "create it or name another"];
    refuses(&lab, "--manifests", &missing, FAILED, &words)?;
    let file = run.join("file");
    std::fs::write(&file, "kind: [Config\n")?;
    refuses(&lab, "--manifests", &path_text(&file), FAILED, &["Not a directory"])?;
    let mut arguments = sound(&lab);
    arguments.remove(0);
    let with = |flag: &'static str, value: &str| {
        let mut arguments = arguments.clone();
        arguments.push((flag, value.to_owned()));
        refusal(&lab, &arguments)
    };
    let unreadable = with("--kubeconfig", "/nowhere/kubeconfig")?;
    expect(&unreadable, FAILED, &["read the kubeconfig /nowhere/kubeconfig", "is it there"])?;
    let no_yaml = with("--kubeconfig", &path_text(&file))?;
    expect(&no_yaml, FAILED, &["kubeconfig", &path_text(&file), "line"])?;
    std::fs::write(&file, "apiVersion: v1\nkind: Config\n")?;
    let empty = with("--kubeconfig", &path_text(&file))?;
    expect(&empty, FAILED, &["kubeconfig", "current-context"])?;
    let no_url = with("--api-server", "10.0.0.1:6443")?;
    expect(&no_url, FAILED, &["--api-server: \"10.0.0.1:6443\"", "https://ADDRESS:PORT"])?;
    // The test does not run in a pod.
    let neither = refusal(&lab, &arguments)?;
    expect(&neither, FAILED, &["no --kubeconfig and no --api-server", "KUBERNETES_SERVICE_HOST"])?;
    let both = sound(&lab).into_iter().chain([("--kubeconfig", path_text(&file))]);
    let both = refusal(&lab, &both.collect::<Vec<_>>())?;
    expect(&both, FAILED, &["--manifests: give either", "or an API server, not both"])
}

#[test]
fn arguments_that_make_no_sense_are_refused() -> Result<()> {
    let lab = bare()?;
    for blank in [" ", "\t"] {
        refuses(&lab, "--node-name", blank, FAILED, &["--node-name: blank", "Node object"])?;
    }
    for flag in [
        "--max-services",
        "--max-backends",
        "--max-slots",
        "--max-frontends",
        "--max-source-ranges",
    ] {
        for nonsense in ["0", "1", "many", "1.5", "4294967296"] {
            let words = [flag, nonsense, "write a whole number from 2 to 4294967295"];
            refuses(&lab, flag, nonsense, FAILED, &words)?;
        }
        // More than any kernel gives; but a trie takes memory only as it is filled, and so many
        // slots are 16 GiB, which some machines have.
        if !["--max-source-ranges", "--max-slots"].contains(&flag) {
            refuses(&lab, flag, "4294967295", FAILED, &[flag])?;
        }
    }
    refuses(&lab, "--no-such-flag", "", WRONG_ARGUMENTS, &["unexpected argument", "Usage"])
}

/// `millrace` on a node, with nothing added to the arguments.
fn millrace(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    let mut command = lab.node("n1").agent_place().command(agent::program()?);
    command.args(arguments).output().with_context(|| format!("run millrace {arguments:?}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_operators_commands_say_that_there_was_no_agent() -> Result<()> {
    let lab = bare()?;
    let agent = Agent::of(lab.node("n1"));
    for command in ["status", "services", "cleanup"] {
        let output = agent.operate(&[command])?;
        let said = text(&output.stderr);
        ensure!(output.status.code() == FAILED, "{command}: {output:?}");
        ensure!(said.contains("no agent has run with this --bpffs"), "{command}: {said}");
        ensure!(output.stdout.is_empty(), "{command}: {output:?}");
        for path in ["/proc", "/nowhere"] {
            let output = millrace(&lab, &[command, "--bpffs", path])?;
            let said = text(&output.stderr);
            ensure!(output.status.code() == FAILED, "{command}: {output:?}");
            ensure!(said.contains(path), "{command} --bpffs {path}: {said}");
        }
    }
    Ok(())
}

#[test]
fn version_and_help_tell_what_there_is() -> Result<()> {
    let lab = bare()?;
    let version = millrace(&lab, &["version"])?;
    let said = text(&version.stdout);
    ensure!(version.status.success() && said.starts_with("millrace "), "{version:?}");
    ensure!(said.contains("map ABI"), "{said}");
    let version = millrace(&lab, &["version", "-o", "json"])?;
    let json: serde_json::Value = serde_json::from_slice(&version.stdout)?;
    ensure!(json["version"].is_string() && json["mapAbi"].is_number(), "{json}");
    let help = millrace(&lab, &["--help"])?;
    ensure!(help.status.success(), "{help:?}");
    let said = text(&help.stdout);
    for command in ["run", "status", "services", "cleanup", "version"] {
        let listed = said.lines().any(|line| line.trim_start().starts_with(command));
        ensure!(listed, "no {command} in\n{said}");
    }
    let help = text(&millrace(&lab, &["run", "--help"])?.stdout);
    for flag in ["--manifests", "--kubeconfig", "--node-name", "--cgroup-root", "--bpffs"] {
        ensure!(help.contains(flag), "no {flag} in\n{help}");
    }
    for arguments in [&[][..], &["dance"], &["status", "-o", "xml"]] {
        let output = millrace(&lab, arguments)?;
        ensure!(output.status.code() == WRONG_ARGUMENTS, "{arguments:?}: {output:?}");
        ensure!(!output.stderr.is_empty(), "{arguments:?}");
    }
    Ok(())
}

/// The agent serves, and says what a wrong name costs.
fn is_told_of_unknown_node(agent: &Agent, name: &str) -> Result<()> {
    wait::until("the unknown node to be told of", CHANGE_TIMEOUT, || {
        let status = agent.status_json()?;
        let conditions = status["agent"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut about = conditions.iter().filter_map(|condition| condition["about"].as_str());
        let told = about.any(|about| about.contains("Node") && about.contains(name));
        ensure!(told, "{conditions:?}");
        Ok(())
    })
}

#[test]
fn a_node_name_that_no_node_has_is_told() -> Result<()> {
    let world = World::without_agents(Lab::builder().pods("n1", &["client", "a"]), &[])?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    let mut arguments = sound(&world.lab);
    arguments.retain(|(flag, _)| *flag != "--node-name");
    arguments.push(("--node-name", "typo".to_owned()));
    let words = arguments.iter().flat_map(|(flag, value)| [*flag, value.as_str()]);
    let words: Vec<&str> = words.chain(SMALL_MAPS.iter().copied()).collect();
    let mut agent = Agent::prepare_bare(world.lab.node("n1"), &words);
    agent.restart()?;
    is_told_of_unknown_node(&agent, "typo")?;
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])?;
    agent.stop()?;
    // The same of an API, which is asked for this one Node only.
    let server = ApiServer::start_in(world.lab.node("n1"))?;
    let source = Source::ApiServer(server.url());
    let mut agent = Agent::start_with(world.lab.node("n1"), &source, SMALL_MAPS)?;
    agent.wait_ready()?;
    is_told_of_unknown_node(&agent, "n1")?;
    let node = json!({"kind": "Node", "metadata": {"name": "n1"}});
    server.put(node);
    wait::until("the Node to be known", CHANGE_TIMEOUT, || {
        let status = agent.status_json()?;
        ensure!(status["agent"]["conditions"] == json!([]), "{status}");
        Ok(())
    })
}
