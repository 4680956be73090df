//! The directory source against everything editors, kubelet and people do to files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace::source::{Kind, Object, ObjectName, files};
use millrace_tests::apiserver::Fold;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Everything here is done within this, or never.
const LIMIT: Duration = Duration::from_secs(20);
/// A change is told within this.
const PROMPT: Duration = Duration::from_millis(200);
/// Longer than any hold: what has not happened by then does not happen.
const LONG: Duration = Duration::from_millis(1500);

/// A directory of one's own and a listener.
struct Lab {
    dir: PathBuf,
    fold: Fold,
    task: JoinHandle<Result<()>>,
}

impl Lab {
    async fn start(files: &[(&str, &str)]) -> Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("millrace-files-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        for (name, text) in files {
            fs::write(dir.join(name), text)?;
        }
        let (sender, receiver) = mpsc::channel(64);
        let task = tokio::spawn(files::watch(dir.clone(), sender));
        let mut fold = Fold::new(receiver);
        fold.until("first look", LIMIT, |fold| fold.complete.len() == Kind::ALL.len()).await?;
        Ok(Self { dir, fold, task })
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }
    /// Wait until exactly these Services are believed; how long that took.
    async fn services(&mut self, expect: &[(&str, &str)]) -> Result<Duration> {
        let begun = Instant::now();
        let expect: Vec<_> = expect.iter().map(|(n, ip)| (n.to_string(), ip.to_string())).collect();
        let what = format!("{expect:?}");
        self.fold.until(&what, LIMIT, |fold| services(fold) == expect).await?;
        Ok(begun.elapsed())
    }
    async fn condition(&mut self, key: &str, part: &str) -> Result<()> {
        let told = |fold: &Fold| fold.conditions.get(key).is_some_and(|text| text.contains(part));
        self.fold.until(&format!("{key}: {part}"), LIMIT, told).await
    }
    async fn well(&mut self) -> Result<()> {
        self.fold.until("all well", LIMIT, |fold| fold.conditions.is_empty()).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn services(fold: &Fold) -> Vec<(String, String)> {
    let service = |object: &Object| match object {
        Object::Service(service) => {
            Some((service.metadata.name.clone(), service.spec.cluster_ip.clone()))
        }
        _ => None,
    };
    fold.objects.values().filter_map(service).collect()
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  \
         clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

fn at_once(took: Duration) {
    assert!(took < PROMPT, "{took:?}");
}

#[tokio::test]
async fn a_directory_is_read_and_followed() -> Result<()> {
    let node = r#"{"kind":"Node","metadata":{"name":"n1"}}"#;
    let a = service("a", "1.1.1.1");
    let noise = service("noise", "9.9.9.9");
    let files = [("a.yaml", &*a), ("n.json", node), (".x.yaml", &noise), ("b.yaml~", &noise)];
    let mut lab = Lab::start(&files).await?;
    let expect = [
        "begin Service",
        "begin EndpointSlice",
        "begin Node",
        "begin ServiceCIDR",
        "apply Service default/a",
        "apply Node n1",
        "complete Service",
        "complete EndpointSlice",
        "complete Node",
        "complete ServiceCIDR",
    ];
    assert_eq!(lab.fold.log, expect);
    lab.write("b.yml", &service("b", "1.1.1.2"))?;
    at_once(lab.services(&[("a", "1.1.1.1"), ("b", "1.1.1.2")]).await?);
    lab.write("a.yaml", &format!("{}{}", service("a", "1.1.1.9"), service("c", "1.1.1.3")))?;
    at_once(lab.services(&[("a", "1.1.1.9"), ("b", "1.1.1.2"), ("c", "1.1.1.3")]).await?);
    lab.write("a.yaml", &service("a", "1.1.1.9"))?;
    at_once(lab.services(&[("a", "1.1.1.9"), ("b", "1.1.1.2")]).await?);
    fs::remove_file(lab.path("b.yml"))?;
    at_once(lab.services(&[("a", "1.1.1.9")]).await?);
    // Only what changed was told.
    assert_eq!(lab.fold.count("apply Service default/a"), 2);
    assert_eq!(lab.fold.count("apply Service default/b"), 1);
    assert!(lab.fold.conditions.is_empty());
    // Nobody listens any more: the watch ends.
    let (_, deaf) = mpsc::channel(1);
    lab.fold = Fold::new(deaf);
    tokio::time::timeout(LIMIT, &mut lab.task).await???;
    Ok(())
}

#[tokio::test]
async fn a_missing_directory_is_an_error() {
    let (sender, _receiver) = mpsc::channel(1);
    let error = files::watch(PathBuf::from("/nowhere/manifests"), sender).await.unwrap_err();
    assert!(format!("{error:#}").contains("/nowhere/manifests"), "{error:#}");
}

#[tokio::test]
async fn what_is_bad_keeps_its_last_good_state() -> Result<()> {
    let both = format!("{}{}", service("a", "1.1.1.1"), service("b", "1.1.1.2"));
    let mut lab = Lab::start(&[("f.yaml", &both)]).await?;
    lab.write("f.yaml", "apiVersion: v1\nkind: [")?;
    lab.condition("file f.yaml", "line 2").await?;
    let bad = service("b", "1.1.1.5").replace("80", "http");
    lab.write("f.yaml", &format!("{}{bad}", service("a", "1.1.1.9")))?;
    lab.services(&[("a", "1.1.1.9"), ("b", "1.1.1.2")]).await?;
    lab.condition("file f.yaml: Service default/b", "spec.ports[0].port").await?;
    lab.write("f.yaml", &both)?;
    lab.services(&[("a", "1.1.1.1"), ("b", "1.1.1.2")]).await?;
    lab.well().await?;
    assert_eq!(lab.fold.count("delete"), 0);
    Ok(())
}

#[tokio::test]
async fn half_written_files_are_not_believed() -> Result<()> {
    let (a, b) = (service("a", "1.1.1.1"), service("b", "1.1.1.2"));
    let mut lab = Lab::start(&[("f.yaml", &format!("{a}{b}"))]).await?;
    // Truncated, then written slowly: all the pieces would parse.
    let mut file = fs::File::create(lab.path("f.yaml"))?;
    lab.fold.during(Duration::from_millis(300)).await;
    file.write_all(service("a", "1.1.1.9").as_bytes())?;
    lab.fold.during(Duration::from_millis(300)).await;
    assert_eq!(services(&lab.fold).len(), 2);
    file.write_all(service("b", "1.1.1.8").as_bytes())?;
    drop(file);
    at_once(lab.services(&[("a", "1.1.1.9"), ("b", "1.1.1.8")]).await?);
    // Emptied and closed, then written.
    lab.write("f.yaml", "")?;
    lab.fold.during(Duration::from_millis(300)).await;
    lab.write("f.yaml", &format!("{a}{b}"))?;
    lab.services(&[("a", "1.1.1.1"), ("b", "1.1.1.2")]).await?;
    // vim's way: the old one goes, the new one comes.
    fs::rename(lab.path("f.yaml"), lab.path("f.yaml~"))?;
    lab.write("f.yaml", &service("a", "1.1.1.1"))?;
    at_once(lab.services(&[("a", "1.1.1.1")]).await?);
    assert_eq!((lab.fold.count("delete"), lab.fold.count("delete Service default/b")), (1, 1));
    // Left open for long: believed after a while, and when empty, too.
    let mut file = fs::File::create(lab.path("f.yaml"))?;
    file.write_all(service("c", "1.1.1.3").as_bytes())?;
    let took = lab.services(&[("c", "1.1.1.3")]).await?;
    assert!(took > Duration::from_millis(500), "{took:?}");
    drop(file);
    lab.write("f.yaml", "")?;
    let took = lab.services(&[]).await?;
    assert!(took > Duration::from_millis(500), "{took:?}");
    Ok(())
}

/// A ConfigMap volume's layout: `f.yaml -> ..data/f.yaml`, `..data -> ..2024_1`.
fn mount(dir: &Path, version: &str, text: &str) -> Result<()> {
    let data = dir.join(format!("..{version}"));
    fs::create_dir(&data)?;
    fs::write(data.join("f.yaml"), text)?;
    symlink(format!("..{version}"), dir.join("..data_tmp"))?;
    fs::rename(dir.join("..data_tmp"), dir.join("..data"))?;
    Ok(())
}

#[tokio::test]
async fn config_maps_and_links() -> Result<()> {
    let mut lab = Lab::start(&[]).await?;
    mount(&lab.dir, "1", &service("a", "1.1.1.1"))?;
    symlink("..data/f.yaml", lab.path("f.yaml"))?;
    at_once(lab.services(&[("a", "1.1.1.1")]).await?);
    mount(&lab.dir, "2", &service("a", "1.1.1.2"))?;
    fs::remove_dir_all(lab.path("..1"))?;
    at_once(lab.services(&[("a", "1.1.1.2")]).await?);
    // Behind the link inotify sees nothing: the slow look does.
    fs::write(lab.path("..2/f.yaml"), service("a", "1.1.1.3"))?;
    lab.services(&[("a", "1.1.1.3")]).await?;
    assert_eq!(lab.fold.count("delete"), 0);
    Ok(())
}

#[tokio::test]
async fn the_first_of_two_files_counts() -> Result<()> {
    let mut lab = Lab::start(&[("m.yaml", &service("a", "1.1.1.1"))]).await?;
    lab.write("z.yaml", &service("a", "1.1.1.2"))?;
    lab.condition("file z.yaml: Service default/a: duplicate", "m.yaml").await?;
    assert_eq!(services(&lab.fold), [("a".into(), "1.1.1.1".into())]);
    fs::remove_file(lab.path("m.yaml"))?;
    at_once(lab.services(&[("a", "1.1.1.2")]).await?);
    lab.well().await?;
    assert_eq!(lab.fold.count("delete"), 0);
    Ok(())
}

#[tokio::test]
async fn a_directory_that_vanishes_and_returns() -> Result<()> {
    let mut lab = Lab::start(&[("f.yaml", &service("a", "1.1.1.1"))]).await?;
    let away = lab.dir.with_extension("away");
    fs::rename(&lab.dir, &away)?;
    let key = format!("directory {}", lab.dir.display());
    lab.condition(&key, "stays in force").await?;
    lab.fold.during(LONG).await;
    assert_eq!(services(&lab.fold).len(), 1);
    fs::create_dir(&lab.dir)?;
    lab.write("f.yaml", &service("a", "1.1.1.2"))?;
    lab.services(&[("a", "1.1.1.2")]).await?;
    lab.well().await?;
    // inotify is on the new one.
    lab.write("f.yaml", &service("a", "1.1.1.3"))?;
    at_once(lab.services(&[("a", "1.1.1.3")]).await?);
    fs::remove_dir_all(away)?;
    Ok(())
}

#[tokio::test]
async fn an_unreadable_file_is_reported() -> Result<()> {
    let mut lab = Lab::start(&[("f.yaml", &service("a", "1.1.1.1"))]).await?;
    lab.write("g.yaml", &service("b", "1.1.1.2"))?;
    lab.services(&[("a", "1.1.1.1"), ("b", "1.1.1.2")]).await?;
    fs::set_permissions(lab.path("g.yaml"), fs::Permissions::from_mode(0o000))?;
    if fs::File::open(lab.path("g.yaml")).is_ok() {
        // Root may read everything: a directory of symbolic links in a ring is beyond root, too.
        fs::remove_file(lab.path("g.yaml"))?;
        symlink("g.yaml", lab.path("g.yaml"))?;
    }
    lab.condition("file g.yaml", "cannot be read").await?;
    lab.fold.during(LONG).await;
    assert_eq!(services(&lab.fold).len(), 2);
    fs::remove_file(lab.path("g.yaml"))?;
    lab.services(&[("a", "1.1.1.1")]).await?;
    lab.well().await
}

#[tokio::test]
async fn many_files_and_bursts() -> Result<()> {
    let mut lab = Lab::start(&[]).await?;
    for i in 0..2000 {
        lab.write(&format!("s{i}.yaml"), &service(&format!("s{i}"), "1.1.1.1"))?;
    }
    lab.fold.until("2000", LIMIT, |fold| fold.objects.len() == 2000).await?;
    for round in 0..50 {
        lab.write("s7.yaml", &service("s7", &format!("1.1.2.{round}")))?;
    }
    let key = (Kind::Service, ObjectName::new("default", "s7"));
    let last = |fold: &Fold| {
        let Object::Service(service) = &fold.objects[&key] else { return false };
        service.spec.cluster_ip == "1.1.2.49"
    };
    lab.fold.until("the last of a burst", LIMIT, last).await?;
    let told = lab.fold.log.iter().filter(|line| *line == "apply Service default/s7").count();
    assert!(told < 25, "{told} of 50 changes");
    assert_eq!(lab.fold.count("delete"), 0);
    Ok(())
}
