//! Google Compute Engine: the metadata server, and with a service account that has `compute.instances.list` (and
//! `compute.autoscalers.list` for a group's largest size) the Compute API.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Api, Failure, Here, Kept, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    bearer, encoded, endless, ip, items, read_json, text,
};
use crate::config::{CloudSettings, Find};
use crate::core::Secret;

const API: &str = "https://compute.googleapis.com";

pub(super) struct Gcp {
    settings: CloudSettings,
    token: Kept,
}

impl Gcp {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings, token: Kept::default() }
    }

    async fn metadata(&self, api: &Api, path: &str) -> Result<Value, Failure> {
        let base = base(&self.settings.metadata, METADATA);
        let request = Request {
            headers: vec![("metadata-flavor", "Google")],
            ..Request::get("metadata", format!("{base}/computeMetadata/v1/{path}"))
        };
        let reply = api.ask(&request).await?;
        // Whoever answers there without the header is not Google's server.
        if reply.header("metadata-flavor") != Some("Google") {
            return Err(Failure::new("metadata: the answer is not that of Google's server"));
        }
        match serde_json::from_slice(&reply.body) {
            Ok(json) => Ok(json),
            Err(_) => Ok(Value::String(String::from_utf8_lossy(&reply.body).trim().to_owned())),
        }
    }

    async fn token(&mut self, api: &Api) -> Result<Secret, Failure> {
        if let Some(token) = self.token.good() {
            return Ok(token);
        }
        let json = self.metadata(api, "instance/service-accounts/default/token").await?;
        let token =
            text(&json, "/access_token").ok_or_else(|| Failure::new("the service account gives no token"))?;
        let life = json.pointer("/expires_in").and_then(Value::as_u64).unwrap_or(0);
        Ok(self.token.keep(bearer(&Secret::new(token.to_owned())), Duration::from_secs(life)))
    }

    async fn get(&mut self, api: &Api, what: &str, path: &str) -> Result<crate::edge::web::Reply, Failure> {
        let url = format!("{}/compute/v1/{path}", base(&self.settings.endpoint, API));
        let mut again = true;
        loop {
            let token = self.token(api).await?;
            let request =
                Request { secrets: vec![("authorization", &token)], ..Request::get(what, url.clone()) };
            let reply = api.send(&request).await?;
            if reply.status != 401 || !again {
                return Ok(reply);
            }
            self.token.forget();
            again = false;
        }
    }

    async fn project(&self, api: &Api) -> Result<String, Failure> {
        match self.metadata(api, "project/project-id").await? {
            Value::String(id) if !id.is_empty() => Ok(id),
            _ => Err(Failure::new("metadata: no project id")),
        }
    }

    /// The largest size of a managed group, where an autoscaler drives it.
    async fn group_max(&mut self, api: &Api, project: &str, manager: &str) -> Result<Option<u32>, Failure> {
        // projects/1/zones/z/instanceGroupManagers/name, or regions/r in the place of zones/z.
        let place: Vec<&str> = manager.split('/').collect();
        let [.., kind @ ("zones" | "regions"), place, "instanceGroupManagers", name] = place[..] else {
            return Ok(None);
        };
        let path = format!("projects/{}/{kind}/{}/autoscalers", encoded(project), encoded(place));
        let what = "autoscalers.list";
        let json = read_json(what, &accept(what, self.get(api, what, &path).await?)?)?;
        let end = format!("/instanceGroupManagers/{name}");
        let ours = items(&json, "/items")
            .find(|item| text(item, "/target").is_some_and(|target| target.ends_with(&end)));
        let max = ours.and_then(|ours| ours.pointer("/autoscalingPolicy/maxNumReplicas")?.as_u64());
        Ok(max.and_then(|max| u32::try_from(max).ok()))
    }
}

/// The last part of a URL or path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[async_trait]
impl Provider for Gcp {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let json = self.metadata(api, "instance/?recursive=true").await?;
        let zone = text(&json, "/zone").map(|zone| last(zone).to_owned());
        let preempted = text(&json, "/preempted") == Some("TRUE");
        let maintenance = text(&json, "/maintenanceEvent").filter(|event| event.starts_with("TERMINATE"));
        let ending = preempted
            .then(|| "gcp: this instance is preempted".to_owned())
            .or_else(|| maintenance.map(|event| format!("gcp: {event}")));
        Ok(Here { zone, ending: Ok(ending) })
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let project = self.project(api).await?;
        let mut listing = Listing::new();
        let (filter, group) = match self.settings.find.clone() {
            Find::Metadata => return Ok(listing),
            Find::Tag(key, value) => (format!("labels.{key}={}", value.unwrap_or_default()), None),
            Find::Group => {
                let by = self.metadata(api, "instance/attributes/created-by").await?;
                let by = by.as_str().filter(|by| by.contains("/instanceGroupManagers/"));
                let by = by
                    .ok_or_else(|| Failure::new("this instance is in no managed instance group"))?
                    .to_owned();
                listing.group_max = self.group_max(api, &project, &by).await;
                (String::new(), Some(by))
            }
        };
        let mut page = String::new();
        for _ in 0..MOST_PAGES {
            let mut path = format!("projects/{}/aggregated/instances?maxResults=500", encoded(&project));
            if !filter.is_empty() {
                path.push_str(&format!("&filter={}", encoded(&filter)));
            }
            if !page.is_empty() {
                path.push_str(&format!("&pageToken={}", encoded(&page)));
            }
            let what = "instances.list";
            let reply = accept(what, self.get(api, what, &path).await?)?;
            let json = read_json(what, &reply)?;
            let zones = json.pointer("/items").and_then(Value::as_object).into_iter().flatten();
            for instance in zones.flat_map(|(_, zone)| items(zone, "/instances")) {
                let by =
                    items(instance, "/metadata/items").find(|item| text(item, "/key") == Some("created-by"));
                if group.is_some() && by.and_then(|by| text(by, "/value")) != group.as_deref() {
                    continue;
                }
                listing.machines.extend(machine(instance));
            }
            page = text(&json, "/nextPageToken").unwrap_or_default().to_owned();
            if page.is_empty() {
                return Ok(listing);
            }
        }
        Err(endless("instances.list"))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let project = self.project(api).await?;
        let [zone, name, number] = id.split('/').collect::<Vec<_>>()[..] else { return Ok(false) };
        let path =
            format!("projects/{}/zones/{}/instances/{}", encoded(&project), encoded(zone), encoded(name));
        let what = "instances.get";
        let reply = self.get(api, what, &path).await?;
        if reply.status == 404 {
            // Google's own word, not that of something on the way.
            return read_json(what, &reply).map(|json| json.pointer("/error/code").is_some());
        }
        // A group gives the name of a machine to the one that replaces it.
        let json = read_json(what, &accept(what, reply)?)?;
        Ok(text(&json, "/id").is_some_and(|now| now != number))
    }
}

fn machine(instance: &Value) -> Option<Machine> {
    let zone = last(text(instance, "/zone")?);
    let id = format!("{zone}/{}/{}", text(instance, "/name")?, text(instance, "/id")?);
    let state = match text(instance, "/status")? {
        "PROVISIONING" | "STAGING" | "RUNNING" => State::Running,
        // TERMINATED is a machine that was stopped, and may be started again.
        _ => State::Other,
    };
    let addresses = |card: &Value| {
        [ip(card, "/networkIP"), ip(card, "/ipv6Address")].into_iter().flatten().collect::<Vec<_>>()
    };
    Some(Machine { id, ips: items(instance, "/networkInterfaces").flat_map(addresses).collect(), state })
}
