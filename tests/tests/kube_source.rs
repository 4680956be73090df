//! The Kubernetes source against an API server that does all that real ones do, and worse. After
//! every trouble the listener must believe what the server has, and nothing may have vanished
//! meanwhile that was there all the time.

use std::time::Duration;

use anyhow::Result;
use millrace::source::kube::{KubeConfig, Timing, client, watch_with};
use millrace::source::{Kind, Object, ObjectName};
use millrace_tests::apiserver::{ApiServer, Fold, Resource};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Everything here is done within this, or never.
const LIMIT: Duration = Duration::from_secs(20);

fn service(name: &str, ip: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name},
        "spec": {"clusterIP": ip, "ports": [{"port": 80}]}})
}

fn slice(name: &str, count: u8) -> Value {
    let endpoints: Vec<_> =
        (0..count).map(|i| json!({"addresses": [format!("10.0.0.{i}")]})).collect();
    json!({"kind": "EndpointSlice", "metadata": {"name": name,
        "labels": {"kubernetes.io/service-name": "a"}},
        "addressType": "IPv4", "endpoints": endpoints, "ports": null})
}

fn node(name: &str) -> Value {
    json!({"kind": "Node", "metadata": {"name": name}, "status": {"addresses": null}})
}

fn service_cidr(name: &str) -> Value {
    json!({"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": ["10.96.0.0/12"]}})
}

/// Short times, so that a test of retries takes no minutes.
fn timing() -> Timing {
    Timing {
        watch_secs: 3,
        watch_margin: Duration::from_millis(500),
        reply: Duration::from_secs(2),
        retry_first: Duration::from_millis(10),
        retry_max: Duration::from_millis(100),
        ..Timing::default()
    }
}

/// A server and a listener.
struct Lab {
    server: ApiServer,
    fold: Fold,
    task: JoinHandle<()>,
}

impl Lab {
    async fn start(server: ApiServer, timing: Timing) -> Result<Self> {
        let client = client(&KubeConfig::from_url(server.url(), "n1")).await?;
        let (sender, receiver) = mpsc::channel(millrace::source::EVENT_QUEUE_EVENTS);
        let task = tokio::spawn(async move { watch_with(client, "n1", sender, timing).await });
        Ok(Self { server, fold: Fold::new(receiver), task })
    }
    /// With a little of everything, synchronised.
    async fn synced() -> Result<Self> {
        let server = ApiServer::start().await?;
        server.put_all([service("a", "10.96.0.1"), service("b", "10.96.0.2"), slice("a-1", 2)]);
        server.put(node("n1"));
        server.put(service_cidr("kubernetes"));
        let mut lab = Self::start(server, timing()).await?;
        lab.agree("first lists").await?;
        Ok(lab)
    }
    /// Wait until the listener believes what the server has.
    async fn agree(&mut self, what: &str) -> Result<()> {
        let mut expect = Vec::new();
        for resource in Resource::ALL {
            expect.extend(self.server.objects(resource).iter().map(identity));
        }
        expect.sort();
        let agrees = |fold: &Fold| {
            let mut known: Vec<_> = fold.objects.values().map(known_identity).collect();
            known.sort();
            fold.complete.len() == Kind::ALL.len() && known == expect
        };
        self.fold.until(what, LIMIT, agrees).await
    }
}

fn identity(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    (text(&object["kind"]), text(&metadata["name"]), text(&metadata["resourceVersion"]))
}

fn known_identity(object: &Object) -> (String, String, String) {
    let version = object.metadata().resource_version.clone();
    (object.kind().to_string(), object.name().name, version)
}

#[tokio::test]
async fn first_lists_then_changes() -> Result<()> {
    let mut lab = Lab::synced().await?;
    let of_services = lab.fold.log.iter().filter(|line| line.contains(" Service"));
    let of_services: Vec<_> = of_services.filter(|line| !line.contains("CIDR")).collect();
    let expect =
        ["begin Service", "apply Service default/a", "apply Service default/b", "complete Service"];
    assert_eq!(of_services, expect);
    lab.server.put(service("c", "10.96.0.3"));
    lab.server.put(slice("a-1", 3));
    lab.server.delete(Resource::Services, "default", "b");
    lab.agree("changes").await?;
    assert_eq!(lab.fold.count("delete Service default/b"), 1);
    assert_eq!((lab.fold.count("begin"), lab.fold.conditions.len()), (4, 0));
    drop(lab.fold);
    tokio::time::timeout(LIMIT, lab.task).await??;
    Ok(())
}

#[tokio::test]
async fn selectors() -> Result<()> {
    let mut lab = Lab::synced().await?;
    let expect = |lab: &Lab, kind, names: &[&str]| {
        assert_eq!(lab.fold.names(kind), names);
    };
    lab.server.put(node("n2"));
    lab.server.put(service("headless", "None"));
    let mut other = service("a", "10.96.0.1");
    other["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
    lab.server.put(other);
    let mut headless = slice("a-1", 2);
    headless["metadata"]["labels"] = json!({"service.kubernetes.io/headless": ""});
    lab.server.put(headless);
    let gone = |fold: &Fold| {
        fold.names(Kind::Service) == ["default/b"] && fold.names(Kind::EndpointSlice).is_empty()
    };
    lab.fold.until("labels that deselect", LIMIT, gone).await?;
    expect(&lab, Kind::Node, &["n1"]);
    lab.server.put(service("a", "10.96.0.1"));
    lab.server.put(slice("a-1", 2));
    lab.server.put(service("last", "10.96.0.9"));
    let back = |fold: &Fold| {
        fold.names(Kind::Service).len() == 3 && fold.names(Kind::EndpointSlice).len() == 1
    };
    lab.fold.until("labels removed", LIMIT, back).await?;
    expect(&lab, Kind::Service, &["default/a", "default/b", "default/last"]);
    assert_eq!(lab.fold.count("begin"), 4);
    Ok(())
}

/// ServiceCIDRs are in the API since Kubernetes 1.33.
#[tokio::test]
async fn an_older_api_server_has_no_service_cidrs_and_that_is_no_fault() -> Result<()> {
    let server = ApiServer::start().await?;
    server.lack(Resource::ServiceCidrs, true);
    server.put(service("a", "10.96.0.1"));
    let patient = Timing { missing_retry: Duration::from_millis(500), ..timing() };
    let mut lab = Lab::start(server, patient).await?;
    lab.agree("without ServiceCIDRs").await?;
    lab.fold.during(Duration::from_secs(2)).await;
    assert!(lab.fold.conditions.is_empty(), "{:?}", lab.fold.conditions);
    let lists = lab.fold.count("begin ServiceCIDR");
    assert!((2..=6).contains(&lists), "{lists} looks in 2 s");
    // The control plane is upgraded, and rolled back.
    lab.server.put(service_cidr("kubernetes"));
    lab.server.lack(Resource::ServiceCidrs, false);
    lab.agree("with ServiceCIDRs").await?;
    lab.server.lack(Resource::ServiceCidrs, true);
    lab.server.break_watches();
    let none = |fold: &Fold| fold.names(Kind::ServiceCidr).is_empty();
    lab.fold.until("none again", LIMIT, none).await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    assert_eq!(lab.fold.names(Kind::Service), ["default/a"]);
    Ok(())
}

/// Services can be selected by their ClusterIP since Kubernetes 1.31.
#[tokio::test]
async fn an_older_api_server_sends_headless_services_too() -> Result<()> {
    let server = ApiServer::start().await?;
    server.know_no_fields_of_services(true);
    server.put_all([service("a", "10.96.0.1"), service("headless", "None")]);
    let mut lab = Lab::start(server, timing()).await?;
    lab.agree("a list without the selector").await?;
    lab.server.put(service("b", "10.96.0.2"));
    lab.agree("a watch without the selector").await?;
    assert_eq!(lab.fold.count("begin Service"), 1);
    assert!(lab.fold.conditions.is_empty(), "{:?}", lab.fold.conditions);
    Ok(())
}

/// A control plane that is rolled back, while its watches go on.
#[tokio::test]
async fn an_api_server_that_becomes_older_is_asked_for_all() -> Result<()> {
    let mut lab = Lab::synced().await?;
    lab.server.put(service("headless", "None"));
    lab.server.know_no_fields_of_services(true);
    lab.server.break_watches();
    lab.agree("everything").await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await
}

#[tokio::test]
async fn pages() -> Result<()> {
    let server = ApiServer::start().await?;
    let name = |i| format!("s{i:04}");
    server.put_all((0..1234).map(|i| service(&name(i), &format!("10.97.{}.{}", i >> 8, i & 255))));
    let mut lab = Lab::start(server, timing()).await?;
    lab.agree("1234 services").await?;
    let counts = lab.server.counts(Resource::Services);
    assert_eq!((counts.lists, counts.list_pages), (1, 3));
    // The pages expire while they are read: in the end the whole is asked for at once.
    lab.server.delay_lists(Duration::from_millis(300));
    lab.server.delete(Resource::Services, "default", &name(7));
    lab.server.expire_watches();
    for _ in 0..8 {
        lab.fold.during(Duration::from_millis(100)).await;
        lab.server.compact();
    }
    let relisted = |fold: &Fold| fold.count("complete Service") == 2;
    lab.fold.until("pages that expire", LIMIT, relisted).await?;
    lab.agree("the whole list").await?;
    assert!(lab.fold.conditions.is_empty(), "{:?}", lab.fold.conditions);
    Ok(())
}

#[tokio::test]
async fn a_relist_sweeps_what_was_deleted_unseen() -> Result<()> {
    let mut lab = Lab::synced().await?;
    for as_status in [false, true] {
        lab.server.gone_as_status(as_status);
        lab.server.stop();
        lab.server.put(service("new", "10.96.0.7"));
        lab.server.delete(Resource::Services, "default", "a");
        lab.server.compact();
        lab.server.restart()?;
        lab.agree("relist after compaction").await?;
        lab.server.put(service("a", "10.96.0.1"));
        lab.server.delete(Resource::Services, "default", "new");
        lab.agree("changes").await?;
    }
    assert_eq!(lab.fold.count("complete Service"), 3);
    Ok(())
}

#[tokio::test]
async fn a_hundred_expiries() -> Result<()> {
    let mut lab = Lab::synced().await?;
    for i in 0..100_u8 {
        lab.server.put(slice(&format!("x-{}", i % 7), i));
        lab.server.delete(Resource::EndpointSlices, "default", &format!("x-{}", (i + 3) % 7));
        lab.server.expire_watches();
        if i % 5 == 0 {
            lab.agree("after an expiry").await?;
        }
    }
    lab.agree("after all expiries").await?;
    // Never swept, never deleted: it was there all the time.
    assert_eq!(lab.fold.count("delete Service default/a"), 0);
    assert!(lab.fold.conditions.is_empty(), "{:?}", lab.fold.conditions);
    Ok(())
}

#[tokio::test]
async fn an_outage_is_reported_bounded_and_forgotten() -> Result<()> {
    let mut lab = Lab::synced().await?;
    let before = lab.server.counts(Resource::Services);
    lab.server.stop();
    let told = |fold: &Fold| {
        let message = fold.conditions.get("watch Services");
        message.is_some_and(|text| text.contains("refused") && text.contains("stays in force"))
    };
    lab.fold.until("the outage", LIMIT, told).await?;
    lab.server.put(service("c", "10.96.0.3"));
    lab.fold.during(Duration::from_secs(3)).await;
    lab.server.restart()?;
    lab.agree("after the outage").await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    // The watch went on where it was: no new list.
    assert_eq!(lab.server.counts(Resource::Services).lists, before.lists);
    assert_eq!(lab.fold.count("begin"), 4);
    Ok(())
}

#[tokio::test]
async fn errors_are_explained_and_the_rate_is_bounded() -> Result<()> {
    for (status, word) in [(503, "health"), (429, "overloaded"), (403, "node-proxier")] {
        let server = ApiServer::start().await?;
        server.put(service("a", "10.96.0.1"));
        server.fail_requests(status, usize::MAX);
        let slow = Timing {
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(1),
            ..timing()
        };
        let mut lab = Lab::start(server, slow).await?;
        lab.fold.during(Duration::from_secs(2)).await;
        let message = &lab.fold.conditions["watch EndpointSlices"];
        assert!(message.contains(&status.to_string()) && message.contains(word), "{message}");
        // 0.1, 0.2, 0.4, 0.8 s and so on, not counting jitter.
        let lists = lab.server.counts(Resource::Services).lists;
        assert!((2..=6).contains(&lists), "{status}: {lists} lists in 2 s");
        assert_eq!(lab.fold.count("begin"), 0);
        lab.server.fail_requests(status, 0);
        lab.agree("when it is over").await?;
        lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn watches_that_end_at_once_are_not_reopened_at_once() -> Result<()> {
    let mut lab = Lab::synced().await?;
    for _ in 0..20 {
        lab.server.put(service("c", "10.96.0.3"));
        lab.server.break_watches();
    }
    lab.agree("broken watches").await?;
    lab.server.shorten_watches(true);
    let before = lab.server.counts(Resource::Services);
    lab.fold.during(Duration::from_secs(5)).await;
    let after = lab.server.counts(Resource::Services);
    assert!(after.watches - before.watches <= 80, "{before:?} {after:?}");
    assert_eq!(after.lists, 1);
    assert!(lab.fold.conditions["watch Services"].contains("as soon as"));
    lab.server.shorten_watches(false);
    lab.server.put(service("d", "10.96.0.4"));
    lab.agree("long watches again").await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    Ok(())
}

#[tokio::test]
async fn a_half_open_connection_is_noticed() -> Result<()> {
    let mut lab = Lab::synced().await?;
    lab.server.hang(true);
    lab.server.put(service("c", "10.96.0.3"));
    let told = |fold: &Fold| {
        fold.conditions.get("watch Services").is_some_and(|message| message.contains("nothing"))
    };
    lab.fold.until("silence", LIMIT, told).await?;
    assert_eq!(lab.fold.names(Kind::Service), ["default/a", "default/b"]);
    lab.server.hang(false);
    lab.agree("a server that speaks again").await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    // Real times: a watch, its margin and one pause with jitter stay within a minute.
    let real = Timing::default();
    let worst =
        Duration::from_secs(real.watch_secs.into()) + real.watch_margin + real.retry_first * 2;
    assert!(worst < Duration::from_secs(60) && real.reply < Duration::from_secs(60));
    Ok(())
}

#[tokio::test]
async fn an_undecodable_object_costs_itself_alone() -> Result<()> {
    let server = ApiServer::start().await?;
    let mut bad = service("bad", "10.96.0.9");
    bad["spec"]["ports"][0]["port"] = "http".into();
    let mut odd = service("odd", "10.96.0.8");
    odd["future"] = json!({"deep": [1, null, {"x": 1.5}]});
    odd["status"] = Value::Null;
    server.put_all([service("a", "10.96.0.1"), bad.clone(), odd]);
    let mut lab = Lab::start(server, timing()).await?;
    let synced = |fold: &Fold| fold.names(Kind::Service) == ["default/a", "default/odd"];
    lab.fold.until("the others", LIMIT, synced).await?;
    let message = &lab.fold.conditions["Service default/bad"];
    assert!(message.contains("spec.ports[0].port"), "{message}");
    // A change that cannot be read leaves the last one in force; the watch goes on.
    let mut worse = service("a", "10.96.0.1");
    worse["spec"]["clusterIP"] = json!(["10.96.0.1"]);
    lab.server.put(worse);
    lab.server.put(service("b", "10.96.0.2"));
    let more = |fold: &Fold| fold.names(Kind::Service).contains(&"default/b".to_owned());
    lab.fold.until("the next", LIMIT, more).await?;
    let key = (Kind::Service, ObjectName::new("default", "a"));
    let Object::Service(kept) = &lab.fold.objects[&key] else { panic!("not a Service") };
    assert_eq!(kept.spec.cluster_ip, "10.96.0.1");
    assert_eq!(lab.fold.conditions.len(), 2);
    assert_eq!(lab.server.counts(Resource::Services).lists, 1);
    lab.server.put(service("a", "10.96.0.1"));
    lab.server.delete(Resource::Services, "default", "bad");
    lab.agree("when both are mended").await?;
    lab.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await?;
    Ok(())
}

#[tokio::test]
async fn tokens_are_needed_and_bookmarks_advance() -> Result<()> {
    let server = ApiServer::start().await?;
    server.require_token(Some("secret"));
    server.put(service("a", "10.96.0.1"));
    let mut lab = Lab::start(server, timing()).await?;
    let told = |fold: &Fold| fold.conditions.contains_key("watch Nodes");
    lab.fold.until("401", LIMIT, told).await?;
    assert!(lab.fold.conditions["watch Nodes"].contains("token"));
    lab.server.require_token(None);
    lab.agree("let in").await?;
    // Other objects change: only bookmarks tell this watch how far it has come.
    lab.server.bookmark_every(Some(Duration::from_millis(20)));
    lab.server.break_watches();
    lab.fold.during(Duration::from_millis(500)).await;
    lab.server.put_all((0..5).map(|i| node(&format!("other-{i}"))));
    lab.fold.during(Duration::from_millis(500)).await;
    lab.server.compact();
    lab.server.break_watches();
    lab.server.put(service("b", "10.96.0.2"));
    let b = |fold: &Fold| fold.names(Kind::Service).len() == 2;
    lab.fold.until("going on", LIMIT, b).await?;
    assert_eq!(lab.fold.count("begin"), 4);
    Ok(())
}

#[tokio::test]
async fn the_service_account_is_used_with_an_address() -> Result<()> {
    let server = ApiServer::start().await?;
    server.require_token(Some("from-file"));
    server.put(service("a", "10.96.0.1"));
    let dir = std::env::temp_dir().join(format!("millrace-sa-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("token"), "from-file")?;
    let mut config = KubeConfig::from_url(server.url(), "n1");
    config.service_account = dir.clone();
    let client = client(&config).await?;
    let (sender, receiver) = mpsc::channel(millrace::source::EVENT_QUEUE_EVENTS);
    let task = tokio::spawn(async move { watch_with(client, "n1", sender, timing()).await });
    let mut lab = Lab { server, fold: Fold::new(receiver), task };
    lab.agree("with the token").await?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

#[test]
fn the_server_is_usable_without_a_runtime() -> Result<()> {
    use std::io::{Read, Write};
    let mut server = ApiServer::start_blocking()?;
    server.put(service("a", "10.96.0.1"));
    for _ in 0..2 {
        let mut stream = std::net::TcpStream::connect(server.address())?;
        write!(stream, "GET /api/v1/services HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.contains("ServiceList") && answer.contains("10.96.0.1"), "{answer}");
        server.restart()?;
    }
    Ok(())
}
