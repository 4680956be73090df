//! A real etcd and a real kube-apiserver on a lab's node, for callers who have the programs.
//!
//! Everything is fixed, since the node's network namespace is theirs alone. Who may do what is
//! RBAC's business: the agent comes with a token of its own service account, kube-proxy with one of
//! the user that the API server itself gives kube-proxy's rights to.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper::http::{Request, StatusCode};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::lab::{Family, Lab, Node, Place, address, residue};
use crate::wait;

/// Names the etcd to take.
pub const ETCD: &str = "MILLRACE_ETCD";
/// Names the kube-apiserver to take.
pub const KUBE_APISERVER: &str = "MILLRACE_KUBE_APISERVER";

/// How long the API server may take to serve: 2 s on an idle machine.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of its log is shown when it ends.
const SHOWN_LINES: usize = 10;
/// Where it listens.
const URL: &str = "https://127.0.0.1:6443";
/// Where etcd listens to it.
const ETCD_URL: &str = "http://127.0.0.1:2379";
/// Where etcd would listen to others.
const ETCD_PEER_URL: &str = "http://127.0.0.1:2380";
/// The tests' own token: may do everything.
const ADMIN_TOKEN: &str = "millrace-tests-admin";
/// The agent's.
const AGENT_TOKEN: &str = "millrace-tests-agent";
/// kube-proxy's.
const PROXY_TOKEN: &str = "millrace-tests-kube-proxy";
/// Requests at once where there are many.
const REQUESTS_AT_ONCE: usize = 16;
/// What a request's body is.
const JSON: &str = "application/json";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
/// Who owns the fields that are applied.
const FIELD_MANAGER: &str = "millrace-tests";

/// The programs.
#[derive(Clone, Debug)]
pub struct Programs {
    etcd: PathBuf,
    kube_apiserver: PathBuf,
}

impl Programs {
    /// Those that the environment names; nothing: it names none.
    pub fn given() -> Result<Option<Self>> {
        let [etcd, kube_apiserver] =
            [ETCD, KUBE_APISERVER].map(|name| std::env::var_os(name).map(PathBuf::from));
        match (etcd, kube_apiserver) {
            (None, None) => Ok(None),
            (Some(etcd), Some(kube_apiserver)) => Ok(Some(Self::new(etcd, kube_apiserver))),
            _ => bail!("{ETCD} and {KUBE_APISERVER} belong together"),
        }
    }

    /// These.
    pub fn new(etcd: PathBuf, kube_apiserver: PathBuf) -> Self {
        Self { etcd, kube_apiserver }
    }
}

/// Both, running. They end with the value, and with the thread that started them.
pub struct RealApi {
    programs: Programs,
    ranges: String,
    place: Place,
    address: String,
    directory: PathBuf,
    etcd: Option<Child>,
    server: Option<Child>,
    session: Option<Session>,
}

/// Connections to the API server. They are made in its network, by [`Place::within`].
struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

/// When a request was on its way, and when its answer was there.
#[derive(Clone, Copy, Debug)]
pub struct Timed {
    /// Sent.
    pub begun: Instant,
    /// Answered.
    pub ended: Instant,
}

impl RealApi {
    /// Start both in the node's network, and wait until they serve.
    pub fn start(node: &Node, programs: Programs) -> Result<Self> {
        let ranges = [Family::V4, Family::V6].map(address::service_cidr);
        Self::start_with_ranges(node, programs, ranges)
    }

    /// The same with these ranges of ClusterIPs, IPv4's and IPv6's.
    pub fn start_with_ranges(node: &Node, programs: Programs, ranges: [&str; 2]) -> Result<Self> {
        // Not the node's: the objects may outlive it.
        let directory = residue::run_of(&Lab::next_id());
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let mut api = Self {
            programs,
            ranges: ranges.join(","),
            place: node.agent_place().clone(),
            address: node.address(Family::V4).to_string(),
            directory,
            etcd: None,
            server: None,
            session: None,
        };
        api.write_credentials()?;
        api.start_both()?;
        Ok(api)
    }

    /// Ends both and starts them in another node's network, with the same objects.
    pub fn move_to(&mut self, node: &Node) -> Result<()> {
        self.end()?;
        self.place = node.agent_place().clone();
        self.address = node.address(Family::V4).to_string();
        self.start_both()
    }

    fn start_both(&mut self) -> Result<()> {
        self.etcd = Some(start_etcd(&self.place, &self.programs, &self.directory)?);
        self.start_server()
    }

    /// Ends both; the objects stay until the value goes.
    pub fn end(&mut self) -> Result<()> {
        self.kill_server()?;
        self.etcd.take().map_or(Ok(()), |mut etcd| {
            etcd.kill().context("kill etcd")?;
            etcd.wait().map(drop).context("wait for etcd")
        })
    }

    fn write_credentials(&self) -> Result<()> {
        let key = rcgen::KeyPair::generate().context("make a key")?;
        let agent = "system:serviceaccount:kube-system:millrace";
        let groups = "system:serviceaccounts,system:serviceaccounts:kube-system";
        let tokens = format!(
            "{ADMIN_TOKEN},admin,1,\"system:masters\"\n{AGENT_TOKEN},{agent},2,\"{groups}\"\n\
             {PROXY_TOKEN},system:kube-proxy,3\n"
        );
        let files = [
            ("sa.key", key.serialize_pem()),
            ("sa.pub", key.public_key_pem()),
            ("tokens.csv", tokens),
            ("agent.kubeconfig", self.config_of(AGENT_TOKEN).to_string()),
            ("kube-proxy.kubeconfig", self.config_of(PROXY_TOKEN).to_string()),
        ];
        for (name, text) in files {
            let path = self.directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// A kubeconfig: YAML takes JSON.
    fn config_of(&self, token: &str) -> Value {
        // The server signs its certificate itself, and puts that authority's behind it.
        let authority = self.directory.join("certs/apiserver.crt");
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "real",
                "cluster": { "server": URL, "certificate-authority": authority },
            }],
            "users": [{ "name": "real", "user": { "token": token } }],
            "contexts": [{ "name": "real", "context": { "cluster": "real", "user": "real" } }],
            "current-context": "real",
        })
    }

    /// The agent's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("agent.kubeconfig")
    }

    /// kube-proxy's.
    pub fn proxy_kubeconfig(&self) -> PathBuf {
        self.directory.join("kube-proxy.kubeconfig")
    }

    /// Start the API server, and wait until it is ready.
    pub fn start_server(&mut self) -> Result<()> {
        let text = |name: &str| self.directory.join(name).display().to_string();
        let flags = [
            ("etcd-servers", ETCD_URL.to_owned()),
            ("cert-dir", text("certs")),
            ("bind-address", "127.0.0.1".to_owned()),
            ("secure-port", "6443".to_owned()),
            ("advertise-address", self.address.clone()),
            ("service-cluster-ip-range", self.ranges.clone()),
            ("authorization-mode", "RBAC".to_owned()),
            ("token-auth-file", text("tokens.csv")),
            ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("service-account-key-file", text("sa.pub")),
            ("service-account-signing-key-file", text("sa.key")),
            ("disable-admission-plugins", "ServiceAccount".to_owned()),
            ("endpoint-reconciler-type", "none".to_owned()),
        ];
        let mut command = self.place.command(&self.programs.kube_apiserver);
        command.args(flags.map(|(name, value)| format!("--{name}={value}")));
        let server = spawn(command, &self.directory.join("kube-apiserver.log"))?;
        self.server = Some(server);
        let ended = wait::until("kube-apiserver to be ready", READY_TIMEOUT, || {
            let ended = self.server.as_mut().map(Child::try_wait).transpose()?.flatten();
            match ended {
                // Waiting longer would not help.
                Some(status) => Ok(Some(status)),
                None => {
                    self.session = Some(self.open_session()?);
                    self.request("GET", "/readyz").map(|_| None)
                }
            }
        })?;
        let Some(status) = ended else { return Ok(()) };
        let log = log_tail(&self.directory.join("kube-apiserver.log"));
        bail!("kube-apiserver ended with {status}; its log ends:\n{log}")
    }

    fn open_session(&self) -> Result<Session> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config: Kubeconfig = serde_json::from_value(self.config_of(ADMIN_TOKEN))?;
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(config, &options).await?;
            Ok::<_, anyhow::Error>(Client::try_from(config)?)
        })?;
        Ok(Session { runtime, client })
    }

    /// Kill the API server; etcd keeps what it knew.
    pub fn kill_server(&mut self) -> Result<()> {
        self.session = None;
        self.server.take().map_or(Ok(()), |mut server| {
            server.kill().context("kill kube-apiserver")?;
            server.wait().map(drop).context("wait for kube-apiserver")
        })
    }

    /// Apply an object as `kubectl apply --server-side --validate=strict` would, then its status if
    /// it has one.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let path = path_of(object)?;
        let mut object = object.clone();
        let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
        let query = format!("fieldManager={FIELD_MANAGER}&force=true&fieldValidation=Strict");
        let apply = request("PATCH", &format!("{path}?{query}"), APPLY, Some(&object))?;
        self.send(apply)?;
        let Some(status) = status else { return Ok(()) };
        // Replaced, not applied: for that a node could have one address of each type.
        let status = json!({ "status": status });
        self.send(request("PATCH", &format!("{path}/status"), MERGE, Some(&status))?).map(drop)
    }

    /// Delete an object.
    pub fn delete(&self, object: &Value) -> Result<()> {
        self.request("DELETE", &path_of(object)?).map(drop)
    }

    /// What a path holds.
    pub fn get(&self, path: &str) -> Result<Value> {
        let text = self.request("GET", path)?;
        serde_json::from_str(&text).with_context(|| format!("GET {path}: not JSON"))
    }

    /// Create objects, many at once; `progress` is called with how many there are so far.
    pub fn create_all(&self, objects: &[Value], mut progress: impl FnMut(usize)) -> Result<()> {
        let session = self.session()?;
        // One worker here makes the requests and reports; only its thread is in the network.
        let (done, all_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let work = scope.spawn(move || {
                self.place.within(|| session.runtime.block_on(create_all(session, objects, &done)))
            });
            (1..).zip(all_done).for_each(|(count, ())| progress(count));
            work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
        })
    }

    /// Merge `change` into an object, as `kubectl patch --type=merge` does.
    pub fn patch(&self, object: &Value, change: &Value) -> Result<Timed> {
        let (path, session) = (path_of(object)?, self.session()?);
        let request = request("PATCH", &path, MERGE, Some(change))?;
        // Both times are taken where the request is made, not where a thread ends.
        self.place.within(|| {
            let begun = Instant::now();
            session.runtime.block_on(send(&session.client, request))?;
            Ok(Timed { begun, ended: Instant::now() })
        })?
    }

    fn session(&self) -> Result<&Session> {
        self.session.as_ref().context("the API server does not run")
    }

    fn request(&self, method: &str, path: &str) -> Result<String> {
        self.send(request(method, path, JSON, None)?)
    }

    fn send(&self, request: Request<Body>) -> Result<String> {
        let session = self.session()?;
        self.place.within(|| session.runtime.block_on(send(&session.client, request)))?
    }
}

impl Drop for RealApi {
    fn drop(&mut self) {
        // Both may have ended already, and the directory may have gone with a lab's remains.
        let _ = self.end();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn request(method: &str, path: &str, content: &str, body: Option<&Value>) -> Result<Request<Body>> {
    let body = Body::from(body.map(Value::to_string).unwrap_or_default().into_bytes());
    let request = Request::builder().method(method).uri(path).header("content-type", content);
    Ok(request.body(body)?)
}

/// The answer's text; a refusal is an error.
async fn send(client: &Client, request: Request<Body>) -> Result<String> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let (head, body) = client.send(request).await?.into_parts();
    let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
    let (status, text) = (head.status, String::from_utf8_lossy(&body).into_owned());
    ensure!(status.is_success() || is_gone(&method, status), "{method} {path}: {status}: {text}");
    Ok(text)
}

async fn create_all(
    session: &Session,
    objects: &[Value],
    done: &std::sync::mpsc::Sender<()>,
) -> Result<()> {
    let create = |object: Value| async move {
        let path = path_of(&object)?;
        let (collection, _) = path.rsplit_once('/').context("a path has a slash")?;
        let path = format!("{collection}?fieldValidation=Strict");
        let request = request("POST", &path, JSON, Some(&object))?;
        send(&session.client, request).await?;
        // Nobody listens any more: nobody wants to know.
        let _ = done.send(());
        Ok(())
    };
    let requests = stream::iter(objects.iter().cloned()).map(create);
    requests.buffer_unordered(REQUESTS_AT_ONCE).try_collect().await
}

/// The last lines of a program's log.
pub fn log_tail(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn is_gone(method: &str, status: StatusCode) -> bool {
    method == "DELETE" && status == StatusCode::NOT_FOUND
}

fn start_etcd(place: &Place, programs: &Programs, directory: &Path) -> Result<Child> {
    let flags = [
        ("data-dir", directory.join("etcd").display().to_string()),
        ("listen-client-urls", ETCD_URL.to_owned()),
        ("advertise-client-urls", ETCD_URL.to_owned()),
        ("listen-peer-urls", ETCD_PEER_URL.to_owned()),
        ("initial-advertise-peer-urls", ETCD_PEER_URL.to_owned()),
        ("initial-cluster", format!("default={ETCD_PEER_URL}")),
    ];
    let mut command = place.command(&programs.etcd);
    command.args(flags.map(|(name, value)| format!("--{name}={value}")));
    spawn(command, &directory.join("etcd.log"))
}

/// Start a program that ends with this thread, whatever ends it, and writes to a log.
pub fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let open = || fs::OpenOptions::new().create(true).append(true).open(log);
    let file = open().with_context(|| format!("open {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    // SAFETY: the hook runs between fork and exec and makes one system call without pointers.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
    let program = command.get_program().display().to_string();
    command.spawn().with_context(|| format!("start {program}"))
}

/// Where the API has an object: of the kinds that tests and `deploy/manifests` have.
fn path_of(object: &Value) -> Result<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (version, kind) = (text("/apiVersion").unwrap_or_default(), text("/kind"));
    let kind = kind.context("an object without a kind")?;
    let name = text("/metadata/name").context("an object without a name")?;
    let resource = match kind {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "ServiceAccount" => "serviceaccounts",
        "ConfigMap" => "configmaps",
        "DaemonSet" => "daemonsets",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        other => bail!("no test applies a {other}"),
    };
    let group = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    Ok(match text("/metadata/namespace") {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{resource}/{name}"),
        None => format!("{group}/{resource}/{name}"),
    })
}
