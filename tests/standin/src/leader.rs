//! Leases that elect one server per task, as client-go's leader election does it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::resources::LEASES;
use crate::api::{Failure, objects};
use crate::clock;
use crate::store::Store;

/// One try to take or renew a lease; `seen` remembers the revision last seen and since when.
///
/// # Errors
/// A failure of the store.
pub async fn hold(
    store: &Store,
    name: &str,
    identity: &str,
    seconds: u64,
    seen: &mut (String, Instant),
) -> Result<bool, Failure> {
    let spec = |transitions: u64, acquired: Value| {
        json!({"holderIdentity": identity, "leaseDurationSeconds": seconds, "acquireTime": acquired,
               "renewTime": clock::now_micro(), "leaseTransitions": transitions})
    };
    let lease = match objects::get(store, &LEASES, "kube-system", name).await {
        Ok(lease) => lease,
        Err(e) if e.code == 404 => {
            let new = json!({"metadata": {"name": name}, "spec": spec(0, json!(clock::now_micro()))});
            return match objects::create(store, &LEASES, "kube-system", new).await {
                Ok(_) => Ok(true),
                Err(e) if e.code == 409 => Ok(false),
                Err(e) => Err(e),
            };
        }
        Err(e) => return Err(e),
    };
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let revision = lease["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    let mine = holder == identity;
    if !mine && !holder.is_empty() {
        // Another's clock is not trusted: what counts is how long the lease has not changed here.
        if seen.0 != revision {
            *seen = (revision.to_owned(), Instant::now());
        }
        if seen.1.elapsed()
            < Duration::from_secs(lease["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(seconds))
        {
            return Ok(false);
        }
    }
    let transitions = lease["spec"]["leaseTransitions"].as_u64().unwrap_or(0);
    let acquired = if mine { lease["spec"]["acquireTime"].clone() } else { json!(clock::now_micro()) };
    let mut next = lease.clone();
    next["spec"] = spec(transitions + u64::from(!mine), acquired);
    let name = name.to_owned();
    match objects::replace(store, &LEASES, "kube-system", &name, next).await {
        Ok(_) => Ok(true),
        Err(e) if e.code == 409 || e.code == 404 => Ok(false),
        Err(e) => Err(e),
    }
}
