//! Tests of the parser: tables of text and what comes of it.

use super::*;
use crate::source::labels;

const SERVICES: &str = "\
# two services and something else
apiVersion: v1
kind: Service
metadata: {name: a, labels: {x: &x \"1\", topology.kubernetes.io/zone: *x}}
spec:
  clusterIP: 10.96.0.1
  ports:
  - port: 80
    name: >-
      web
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {k: v}
---
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: k}
---
apiVersion: v1
kind: Service
metadata: {name: b, namespace: n}
spec: {clusterIP: \"10.96.0.2\", ports: null}
";

fn names(parsed: &Parsed) -> Vec<(u64, String)> {
    let of =
        |(line, object): &(u64, Object)| (*line, format!("{} {}", object.kind(), object.name()));
    parsed.objects.iter().map(of).collect()
}

#[test]
fn names_of_manifests() {
    for (name, expect) in [
        ("a.yaml", Some(Format::Yaml)),
        ("a.b.yml", Some(Format::Yaml)),
        ("a.json", Some(Format::Json)),
        ("..data", None),
        (".a.yaml", None),
        (".a.yaml.swp", None),
        ("a.yaml~", None),
        ("#a.yaml#", None),
        ("a.yaml.bak", None),
        ("yaml", None),
    ] {
        assert_eq!(Format::of(name), expect, "{name}");
    }
}

#[test]
fn many_documents() {
    let parsed = parse(Format::Yaml, SERVICES.as_bytes()).unwrap();
    assert_eq!(names(&parsed), [(2, "Service default/a".into()), (22, "Service n/b".into())]);
    assert_eq!((parsed.ignored_count, parsed.problems.len()), (2, 0));
    let Object::Service(a) = &parsed.objects[0].1 else { panic!() };
    assert_eq!(a.metadata.labels.get(labels::ZONE), Some("1"));
    assert_eq!((a.spec.ports[0].port, &*a.spec.ports[0].name), (80, "web"));
}

#[test]
fn lists_as_kubectl_prints_them() {
    let yaml = "\
apiVersion: v1
items:
- apiVersion: v1
  kind: Node
  metadata: {name: n1, namespace: odd}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: s, namespace: n}
  addressType: IPv4
  endpoints: null
- kind: Pod
  on: yes
kind: List
metadata: {resourceVersion: \"\"}
---
items:
- metadata: {name: t}
kind: EndpointSliceList
apiVersion: discovery.k8s.io/v1
";
    let parsed = parse(Format::Yaml, yaml.as_bytes()).unwrap();
    let expect = [
        (3, "Node n1".to_owned()),
        (6, "EndpointSlice n/s".to_owned()),
        (17, "EndpointSlice default/t".to_owned()),
    ];
    assert_eq!(names(&parsed), expect);
    let json = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{},
        "items":[
          {"metadata":{"name":"a"}},
          {"metadata":{"name":"b"},"spec":{
             "ports":[{"port":"x"}]}}
        ]}
        {"kind":"List","items":null} {"kind":"Node","metadata":{"name":"n"}}"#;
    let parsed = parse(Format::Json, json.as_bytes()).unwrap();
    assert_eq!(names(&parsed), [(3, "Service default/a".into()), (7, "Node n".into())]);
    assert_eq!(parsed.problems.len(), 1);
    let problem = &parsed.problems[0];
    assert_eq!(problem.line, Some(5));
    assert_eq!(problem.object, Some((Kind::Service, ObjectName::new("default", "b"))));
    assert!(problem.message.starts_with("spec.ports[0].port: "), "{}", problem.message);
}

#[test]
fn a_bad_object_leaves_the_others() {
    let cases = [
        ("kind: Service\nmetadata: {name: x}\nspec: {ports: [{port: http}]}", "x", "spec.ports[0]"),
        ("kind: Service\nmetadata: {name: x, labels: {v: 1.10}}", "x", "metadata.labels.v"),
        ("kind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 9999999999}]}", "x", "i32"),
        ("kind: Service\nmetadata: {namespace: x}", "", "metadata.name"),
        ("kind: Service\nmetadata: {name: 7}", "", "metadata.name"),
        ("kind: Service\napiVersion: v2\nmetadata: {name: x}", "x", "v2"),
        ("metadata: {name: x}", "", "no kind"),
    ];
    for (text, name, message) in cases {
        let text = format!("kind: Service\nmetadata: {{name: a}}\n---\n{text}\n");
        let parsed = parse(Format::Yaml, text.as_bytes()).unwrap();
        assert_eq!(names(&parsed), [(1, "Service default/a".into())], "{text}");
        let [problem] = &parsed.problems[..] else { panic!("{text}: {:?}", parsed.problems) };
        let object = problem.object.as_ref().map_or("", |(_, name)| &name.name);
        assert_eq!((problem.line, object), (Some(4), name), "{text}");
        assert!(problem.message.contains(message), "{text}: {}", problem.message);
    }
}

#[test]
fn a_bad_file_says_where() {
    for (format, text, line) in [
        (Format::Yaml, "kind: Service\nmetadata: {name: a}\nspec: [", 3),
        (Format::Yaml, "kind: Service\nmetadata:\n\tname: a\n", 3),
        (Format::Yaml, "kind: Service\nkind: Service\n", 2),
        (Format::Yaml, "kind: Service\n---\njust text\n", 3),
        (Format::Json, "{\"kind\":\"Service\",\n\"metadata\":", 2),
        (Format::Json, "[]", 1),
        (Format::Json, "\n\n\u{7f}", 3),
    ] {
        let problem = parse(format, text.as_bytes()).unwrap_err();
        let found = problem.line.unwrap_or_default();
        assert!(found.abs_diff(line) <= 1, "{text:?}: {problem:?}");
        assert!(problem.object.is_none());
    }
    assert!(parse(Format::Yaml, b"kind: \xff\xfe").is_err());
    assert!(parse(Format::Json, b"{\"kind\": \"\xff\xfe\"}").is_err());
}

#[test]
fn nothing_is_nothing() {
    for text in ["", "\n", "# a comment\n", "---\n---\n", "null\n", "\u{feff}"] {
        assert_eq!(parse(Format::Yaml, text.as_bytes()), Ok(Parsed::default()), "{text:?}");
    }
    assert_eq!(parse(Format::Json, b" \n"), Ok(Parsed::default()));
}

#[test]
fn bombs_are_refused() {
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, of) in "bcdefghijk".chars().zip("abcdefghij".chars()) {
        let list = vec![format!("*{of}"); 10].join(",");
        bomb.push_str(&format!("{name}: &{name} [{list}]\n"));
    }
    assert!(parse(Format::Yaml, bomb.as_bytes()).is_err());
    let deep = format!("a: {}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(parse(Format::Yaml, deep.as_bytes()).is_err());
    let deep = format!("{{\"kind\":\"Service\",\"metadata\":{}", "[".repeat(20_000));
    assert!(parse(Format::Json, deep.as_bytes()).is_err());
}

#[test]
fn a_big_list_is_read_in_seconds() {
    let mut text = String::from("apiVersion: v1\nitems:\n");
    for i in 0..20_000 {
        text.push_str(&format!(
            "- apiVersion: v1\n  kind: Service\n  metadata:\n    name: s{i}\n  spec:\n    \
             clusterIP: 10.1.{}.{}\n    ports:\n    - port: 80\n      protocol: TCP\n",
            i >> 8,
            i & 255
        ));
    }
    text.push_str("kind: List\n");
    let begun = std::time::Instant::now();
    let parsed = parse(Format::Yaml, text.as_bytes()).unwrap();
    assert_eq!((parsed.objects.len(), parsed.problems.len()), (20_000, 0));
    let seconds = begun.elapsed().as_secs();
    assert!(seconds < 30, "{seconds} s");
}

#[test]
fn service_cidrs_are_in_no_namespace() {
    let one = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\n\
               metadata: {name: a, namespace: x}\nspec: {cidrs: [10.96.0.0/12, 'fd00::/108']}\n";
    let parsed = parse(Format::Yaml, one.as_bytes()).unwrap();
    assert_eq!(names(&parsed), [(1, "ServiceCIDR a".into())]);
    let (_, Object::ServiceCidr(cidr)) = &parsed.objects[0] else { panic!("{parsed:?}") };
    assert_eq!(cidr.spec.cidrs, ["10.96.0.0/12", "fd00::/108"]);
    let list = r#"{"kind": "ServiceCIDRList", "apiVersion": "networking.k8s.io/v1",
                   "items": [{"metadata": {"name": "b"}, "spec": {"cidrs": null}}]}"#;
    let parsed = parse(Format::Json, list.as_bytes()).unwrap();
    assert_eq!(names(&parsed), [(2, "ServiceCIDR b".into())]);
    let beta = one.replace("k8s.io/v1", "k8s.io/v1beta1");
    let parsed = parse(Format::Yaml, beta.as_bytes()).unwrap();
    assert_eq!((parsed.objects.len(), parsed.problems.len()), (0, 1));
}
