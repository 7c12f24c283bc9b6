use super::*;
use crate::store::Lone;

struct Api {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Api {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::Lone(Lone::open(dir.path().join("state.db")).unwrap());
        Self { _dir: dir, store }
    }

    async fn ask(&self, who: &str, method: &str, path: &str, body: Value) -> Result<(u16, Value), Failure> {
        self.typed(who, method, path, body, "application/merge-patch+json").await
    }

    async fn typed(
        &self,
        who: &str,
        method: &str,
        path: &str,
        body: Value,
        content_type: &str,
    ) -> Result<(u16, Value), Failure> {
        let user = match who {
            "admin" => User { name: "system:admin".into(), groups: vec!["system:masters".into()] },
            node => User { name: format!("system:node:{node}"), groups: vec!["system:nodes".into()] },
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let body = body.to_string();
        serve(&self.store, &Request { method, path, query, content_type, body: body.as_bytes(), user: &user })
            .await
    }
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"pool": "a"}}, "status": {"conditions": []}})
}

#[tokio::test]
async fn objects_are_created_listed_selected_and_deleted() {
    let api = Api::new();
    assert_eq!(api.ask("admin", "POST", "/api/v1/nodes", node("a")).await.unwrap().0, 201);
    assert_eq!(
        api.ask("admin", "POST", "/api/v1/nodes", node("a")).await.unwrap_err().reason,
        "AlreadyExists"
    );
    api.ask("admin", "POST", "/api/v1/nodes", node("b")).await.unwrap();
    let (_, list) =
        api.ask("admin", "GET", "/api/v1/nodes?labelSelector=pool%3Da", Value::Null).await.unwrap();
    assert_eq!(list["kind"], "NodeList");
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    let (_, list) =
        api.ask("admin", "GET", "/api/v1/nodes?fieldSelector=metadata.name%3Db", Value::Null).await.unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    let (_, gone) = api.ask("admin", "DELETE", "/api/v1/nodes/a", Value::Null).await.unwrap();
    assert_eq!(gone["status"], "Success");
    assert_eq!(api.ask("admin", "GET", "/api/v1/nodes/a", Value::Null).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_stale_lease_update_conflicts() {
    let api = Api::new();
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let lease = json!({"metadata": {"name": "x"}, "spec": {"holderIdentity": "a"}});
    let (_, made) = api.ask("admin", "POST", path, lease).await.unwrap();
    let mut mine = made.clone();
    mine["spec"]["holderIdentity"] = json!("b");
    api.ask("admin", "PUT", &format!("{path}/x"), mine).await.unwrap();
    let mut stale = made;
    stale["spec"]["holderIdentity"] = json!("c");
    let error = api.ask("admin", "PUT", &format!("{path}/x"), stale).await.unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_removed() {
    let api = Api::new();
    let mut held = node("a");
    held["metadata"]["finalizers"] = json!(["wrangler.cattle.io/managed-etcd-controller"]);
    api.ask("admin", "POST", "/api/v1/nodes", held).await.unwrap();
    let (_, marked) = api.ask("admin", "DELETE", "/api/v1/nodes/a", Value::Null).await.unwrap();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let path = "/api/v1/nodes/a";
    assert_eq!(api.ask("admin", "GET", path, Value::Null).await.unwrap().0, 200);
    api.ask("admin", "PATCH", path, json!({"metadata": {"finalizers": null}})).await.unwrap();
    assert_eq!(api.ask("admin", "GET", path, Value::Null).await.unwrap_err().code, 404);
}

#[tokio::test]
async fn a_kubelet_reaches_its_own_node_and_nothing_else() {
    let api = Api::new();
    api.ask("a", "POST", "/api/v1/nodes", node("a")).await.unwrap();
    let own = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let strategic = "application/strategic-merge-patch+json";
    let (_, patched) = api.typed("a", "PATCH", "/api/v1/nodes/a/status", own, strategic).await.unwrap();
    assert_eq!(patched["status"]["conditions"][0]["status"], "True");
    for (method, path) in [
        ("GET", "/api/v1/nodes"),
        ("GET", "/api/v1/nodes/b"),
        ("DELETE", "/api/v1/nodes/a"),
        ("GET", "/api/v1/secrets"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/k3s"),
    ] {
        assert_eq!(api.ask("a", method, path, Value::Null).await.unwrap_err().code, 403, "{method} {path}");
    }
    assert_eq!(api.ask("a", "POST", "/api/v1/nodes", node("b")).await.unwrap_err().code, 403);
}

#[tokio::test]
async fn a_kubelet_lists_and_evicts_its_own_pods_alone() {
    let api = Api::new();
    for (name, node) in [("mine", "a"), ("theirs", "b")] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
        api.ask("admin", "POST", "/api/v1/namespaces/default/pods", pod).await.unwrap();
    }
    let own = "/api/v1/pods?fieldSelector=spec.nodeName%3Da";
    let (_, list) = api.ask("a", "GET", own, Value::Null).await.unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    for path in ["/api/v1/pods", "/api/v1/pods?fieldSelector=spec.nodeName%3Db"] {
        assert_eq!(api.ask("a", "GET", path, Value::Null).await.unwrap_err().code, 403, "{path}");
    }
    let eviction = |pod: &str| format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    assert_eq!(api.ask("a", "POST", &eviction("theirs"), json!({})).await.unwrap_err().code, 403);
    assert_eq!(api.ask("a", "POST", &eviction("mine"), json!({})).await.unwrap().0, 201);
    assert_eq!(api.ask("a", "POST", &eviction("mine"), json!({})).await.unwrap_err().code, 404);
}
