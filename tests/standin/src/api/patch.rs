//! The three kinds of patches clients send.

use serde_json::{Map, Value};

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    let object = object_of(target);
    for (key, change) in changes {
        if change.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

fn object_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// Kubernetes' strategic merge, for the lists that nodes have: conditions and addresses merge by `type`, finalizers
/// add up; other lists are replaced.
pub fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    let object = object_of(target);
    for (key, change) in changes {
        if key.starts_with('$') {
            continue;
        }
        if change.is_null() {
            object.remove(key);
            continue;
        }
        let slot = object.entry(key.clone()).or_insert(Value::Null);
        match (key.as_str(), change) {
            ("conditions" | "addresses", Value::Array(items)) => merge_by_type(slot, items),
            ("finalizers", Value::Array(items)) => {
                let mut all = slot.as_array().cloned().unwrap_or_default();
                all.extend(items.iter().filter(|i| !all.contains(i)).cloned().collect::<Vec<_>>());
                *slot = Value::Array(all);
            }
            _ => strategic(slot, change),
        }
    }
}

fn merge_by_type(slot: &mut Value, items: &[Value]) {
    let mut all = slot.as_array().cloned().unwrap_or_default();
    for item in items {
        match all.iter_mut().find(|old| old["type"] == item["type"]) {
            Some(old) => strategic(old, item),
            None => all.push(item.clone()),
        }
    }
    *slot = Value::Array(all);
}

/// RFC 6902, without `move` and `copy`.
///
/// # Errors
/// What is wrong with which operation.
pub fn operations(target: &mut Value, patch: &Value) -> Result<(), String> {
    let list = patch.as_array().ok_or("a JSON patch is a list")?;
    for operation in list {
        let path = operation["path"].as_str().ok_or("a JSON patch operation needs a path")?;
        let op = operation["op"].as_str().unwrap_or_default();
        if op == "test" {
            if target.pointer(path).unwrap_or(&Value::Null) != &operation["value"] {
                return Err(format!("testing value {path} failed"));
            }
            continue;
        }
        let (parent, last) = path.rsplit_once('/').ok_or("a JSON patch path starts with /")?;
        let last = last.replace("~1", "/").replace("~0", "~");
        let absent = || format!("{op} operation does not apply: doc is missing path: {path}");
        let parent = target.pointer_mut(parent).ok_or_else(absent)?;
        match (op, parent) {
            ("add", Value::Object(map)) => drop(map.insert(last, operation["value"].clone())),
            ("replace", Value::Object(map)) if map.contains_key(&last) => {
                map.insert(last, operation["value"].clone());
            }
            ("remove", Value::Object(map)) => drop(map.remove(&last).ok_or_else(absent)?),
            ("add", Value::Array(items)) if last == "-" => items.push(operation["value"].clone()),
            ("add" | "replace" | "remove", Value::Array(items)) => {
                let at: usize = last.parse().map_err(|_| absent())?;
                if at > items.len() || (at == items.len() && op != "add") {
                    return Err(absent());
                }
                match op {
                    "add" => items.insert(at, operation["value"].clone()),
                    "replace" => items[at] = operation["value"].clone(),
                    _ => drop(items.remove(at)),
                }
            }
            _ => return Err(absent()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merging_removes_with_null_and_keeps_the_rest() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "l": [1]});
        merge(&mut value, &json!({"a": {"b": null, "d": 3}, "l": [2]}));
        assert_eq!(value, json!({"a": {"c": 2, "d": 3}, "l": [2]}));
    }

    #[test]
    fn strategic_merging_keeps_other_conditions() {
        let mut value =
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "X"}]}});
        strategic(&mut value, &json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}));
        assert_eq!(
            value["status"]["conditions"],
            json!([{"type": "Ready", "status": "False"}, {"type": "X"}])
        );
    }

    #[test]
    fn json_patches_reach_into_maps_and_lists() {
        let mut value = json!({"metadata": {"labels": {}, "finalizers": ["a", "b"]}});
        let patch = json!([
            {"op": "add", "path": "/metadata/labels/example.com~1x", "value": "1"},
            {"op": "remove", "path": "/metadata/finalizers/0"},
            {"op": "test", "path": "/metadata/finalizers/0", "value": "b"},
        ]);
        operations(&mut value, &patch).unwrap();
        assert_eq!(value, json!({"metadata": {"labels": {"example.com/x": "1"}, "finalizers": ["b"]}}));
        assert!(operations(&mut value, &json!([{"op": "remove", "path": "/metadata/nothing"}])).is_err());
    }
}
