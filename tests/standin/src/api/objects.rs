//! Objects in the store, for the parts of the program that need no HTTP: read, change with retry, delete.

use serde_json::{Value, json};

use super::Failure;
use super::resources::Resource;
use crate::clock;
use crate::etcd::Entry;
use crate::store::Store;

/// An object with its revision in `metadata.resourceVersion`.
pub fn of(entry: &Entry) -> Value {
    let mut object: Value = serde_json::from_str(&entry.value).unwrap_or(Value::Null);
    object["metadata"]["resourceVersion"] = json!(entry.revision.to_string());
    object
}

fn text(object: &Value) -> String {
    let mut stored = object.clone();
    if let Some(metadata) = stored["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    stored.to_string()
}

fn uid() -> String {
    let h = hex::encode(rand::random::<[u8; 16]>());
    format!("{}-{}-4{}-a{}-{}", &h[..8], &h[8..12], &h[13..16], &h[17..20], &h[20..32])
}

/// `name` is not there.
pub fn not_found(resource: &Resource, name: &str) -> Failure {
    Failure::new(404, format!("{} \"{name}\" not found", resource.qualified()))
}

/// The object changed meanwhile.
pub fn conflict(resource: &Resource, name: &str) -> Failure {
    Failure::new(
        409,
        format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes \
             to the latest version and try again",
            resource.qualified()
        ),
    )
}

/// One object.
///
/// # Errors
/// 404, or a failure of the store.
pub async fn get(store: &Store, resource: &Resource, namespace: &str, name: &str) -> Result<Value, Failure> {
    let entry = store.get(&resource.key(namespace, name)).await.map_err(|e| Failure::store(&e))?;
    entry.as_ref().map(of).ok_or_else(|| not_found(resource, name))
}

/// All objects of a namespace (empty: of all), and the store's revision.
///
/// # Errors
/// A failure of the store.
pub async fn list(store: &Store, resource: &Resource, namespace: &str) -> Result<(Vec<Value>, i64), Failure> {
    let (entries, revision) =
        store.list(&resource.prefix(namespace)).await.map_err(|e| Failure::store(&e))?;
    Ok((entries.iter().map(of).collect(), revision))
}

/// Creates an object, filling in what the apiserver fills in.
///
/// # Errors
/// 409 `AlreadyExists`, 400 without a name, or a failure of the store.
pub async fn create(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    mut object: Value,
) -> Result<Value, Failure> {
    let metadata = &mut object["metadata"];
    if let (true, Some(base)) = (metadata["name"].is_null(), metadata["generateName"].as_str()) {
        metadata["name"] = json!(format!("{base}{}", &hex::encode(rand::random::<[u8; 3]>())[..5]));
    }
    let Some(name) = metadata["name"].as_str().filter(|n| !n.is_empty()).map(str::to_owned) else {
        return Err(Failure::new(422, "name or generateName is required"));
    };
    if resource.namespaced {
        metadata["namespace"] = json!(namespace);
    }
    metadata["uid"] = json!(uid());
    metadata["creationTimestamp"] = json!(clock::now());
    object["kind"] = json!(resource.kind);
    object["apiVersion"] = json!(resource.api_version());
    let key = resource.key(namespace, &name);
    match store.put_if(&key, &text(&object), 0).await.map_err(|e| Failure::store(&e))? {
        Some(revision) => {
            object["metadata"]["resourceVersion"] = json!(revision.to_string());
            Ok(object)
        }
        None => Err(Failure {
            code: 409,
            reason: "AlreadyExists",
            message: format!("{} \"{name}\" already exists", resource.qualified()),
        }),
    }
}

/// Replaces an object. A `resourceVersion` in it must match; without one the last writer wins.
///
/// # Errors
/// 404, 409, or a failure of the store.
pub async fn replace(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
    object: Value,
) -> Result<Value, Failure> {
    let wanted = object["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse::<i64>().ok());
    change(store, resource, namespace, name, wanted, |current| {
        let mut next = object.clone();
        for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
            if !current["metadata"][field].is_null() {
                next["metadata"][field] = current["metadata"][field].clone();
            }
        }
        next["kind"] = json!(resource.kind);
        next["apiVersion"] = json!(resource.api_version());
        Ok(next)
    })
    .await
}

/// Reads, changes and writes an object. Without a wanted revision it tries again when somebody else was faster.
/// An object that is being deleted and has no finalizers left disappears.
///
/// # Errors
/// 404, 409 for a revision that is not the wanted one, or a failure of the store.
pub async fn change(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
    wanted: Option<i64>,
    edit: impl Fn(&Value) -> Result<Value, Failure>,
) -> Result<Value, Failure> {
    let key = resource.key(namespace, name);
    for _ in 0..10 {
        let entry = store.get(&key).await.map_err(|e| Failure::store(&e))?;
        let entry = entry.ok_or_else(|| not_found(resource, name))?;
        if wanted.is_some_and(|wanted| wanted != entry.revision) {
            return Err(conflict(resource, name));
        }
        let current = of(&entry);
        let mut next = edit(&current)?;
        next["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"].clone();
        if next == current {
            return Ok(current);
        }
        let finalizers = next["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let gone = !next["metadata"]["deletionTimestamp"].is_null() && !finalizers;
        let written = if gone {
            store.delete_if(&key, entry.revision).await
        } else {
            store.put_if(&key, &text(&next), entry.revision).await
        };
        match written.map_err(|e| Failure::store(&e))? {
            Some(revision) => {
                next["metadata"]["resourceVersion"] = json!(revision.to_string());
                return Ok(next);
            }
            None if wanted.is_some() => return Err(conflict(resource, name)),
            None => {}
        }
    }
    Err(conflict(resource, name))
}

/// Deletes an object, or marks it when finalizers hold it.
///
/// # Errors
/// 404, 409 for a precondition, or a failure of the store.
pub async fn delete(
    store: &Store,
    resource: &Resource,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<Value, Failure> {
    let marked = change(store, resource, namespace, name, None, |current| {
        if uid.is_some_and(|uid| current["metadata"]["uid"] != uid) {
            return Err(conflict(resource, name));
        }
        let mut next = current.clone();
        if next["metadata"]["deletionTimestamp"].is_null() {
            next["metadata"]["deletionTimestamp"] = json!(clock::now());
            next["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        Ok(next)
    });
    marked.await
}
