//! OpenStack: the metadata service for the zone, and with an application credential (which may be restricted to reading servers)
//! Nova's list of servers, by their metadata. The place of Nova comes from Keystone's catalogue.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    Api, Failure, Here, Kept, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    encoded, endless, ip, items, next_page, read_json, secret_file, text,
};
use crate::config::{CloudSettings, Find};
use crate::core::Secret;
use crate::edge::web::Reply;

/// Life of a token of Keystone, at least; its own word is in a clock that need not be ours, so it is asked anew when refused.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

pub(super) struct OpenStack {
    settings: CloudSettings,
    token: Kept,
    nova: String,
}

impl OpenStack {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings, token: Kept::default(), nova: String::new() }
    }

    async fn token(&mut self, api: &Api) -> Result<Secret, Failure> {
        if let Some(token) = self.token.good() {
            return Ok(token);
        }
        let secret = secret_file(&self.settings).await?;
        let id = self.settings.credential.as_deref().unwrap_or_default();
        let credential = json!({ "id": id, "secret": secret.expose() });
        let identity = json!({ "methods": ["application_credential"], "application_credential": credential });
        let body = json!({ "auth": { "identity": identity } });
        let what = "keystone";
        let reply = api
            .ask(&Request {
                method: Method::POST,
                headers: vec![("content-type", "application/json"), ("accept", "application/json")],
                body: Some(body.to_string().into_bytes()),
                ..Request::get(what, format!("{}/auth/tokens", base(&self.settings.endpoint, "")))
            })
            .await?;
        let token = reply.header("x-subject-token").ok_or_else(|| Failure::new("keystone gave no token"))?;
        let token = Secret::new(token.to_owned());
        let json = read_json(what, &reply)?;
        let compute =
            items(&json, "/token/catalog").find(|service| text(service, "/type") == Some("compute"));
        let wanted = self.settings.region.as_deref();
        let public = compute.into_iter().flat_map(|service| items(service, "/endpoints")).find(|endpoint| {
            text(endpoint, "/interface") == Some("public")
                && wanted.is_none_or(|region| text(endpoint, "/region") == Some(region))
        });
        let url = public.and_then(|endpoint| text(endpoint, "/url"));
        let url =
            url.ok_or_else(|| Failure::new("keystone's catalogue has no public compute service here"))?;
        self.nova = url.trim_end_matches('/').to_owned();
        Ok(self.token.keep(token, TOKEN_LIFE))
    }

    async fn get(&mut self, api: &Api, what: &str, url: impl Fn(&str) -> String) -> Result<Reply, Failure> {
        let mut again = true;
        loop {
            let token = self.token(api).await?;
            let request =
                Request { secrets: vec![("x-auth-token", &token)], ..Request::get(what, url(&self.nova)) };
            let reply = api.send(&request).await?;
            if reply.status != 401 || !again {
                return Ok(reply);
            }
            self.token.forget();
            again = false;
        }
    }
}

#[async_trait]
impl Provider for OpenStack {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let url = format!("{}/openstack/latest/meta_data.json", base(&self.settings.metadata, METADATA));
        let json = api.json(&Request::get("metadata", url)).await?;
        Ok(Here::of(text(&json, "/availability_zone").map(str::to_owned)))
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let Find::Tag(key, value) = self.settings.find.clone() else { return Ok(Listing::new()) };
        let (what, mut listing) = ("servers", Listing::new());
        let mut next: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = next.take();
            let url = |nova: &str| page.clone().unwrap_or_else(|| format!("{nova}/servers/detail?limit=500"));
            let json = read_json(what, &accept(what, self.get(api, what, url).await?)?)?;
            for server in items(&json, "/servers") {
                let held =
                    server.get("metadata").and_then(|metadata| metadata.get(&key)).and_then(Value::as_str);
                if held == value.as_deref() {
                    listing.machines.extend(machine(server));
                }
            }
            let link = items(&json, "/servers_links").find(|link| text(link, "/rel") == Some("next"));
            next = next_page(&self.nova, link.and_then(|link| text(link, "/href")))?;
            if next.is_none() {
                return Ok(listing);
            }
        }
        Err(endless(what))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let reply = self.get(api, "server", |nova| format!("{nova}/servers/{}", encoded(id))).await?;
        if reply.status == 404 {
            return read_json("server", &reply).map(|json| json.pointer("/itemNotFound").is_some());
        }
        let json = read_json("server", &accept("server", reply)?)?;
        Ok(text(&json, "/server/status") == Some("DELETED"))
    }
}

fn machine(server: &Value) -> Option<Machine> {
    let state = match text(server, "/status")? {
        "ACTIVE" | "BUILD" | "REBOOT" | "HARD_REBOOT" => State::Running,
        "DELETED" => State::Gone,
        _ => State::Other,
    };
    let nets = server.get("addresses").and_then(Value::as_object).into_iter().flatten();
    let addresses = nets.flat_map(|(_, addresses)| addresses.as_array().into_iter().flatten());
    let fixed = addresses.filter(|address| text(address, "/OS-EXT-IPS:type") != Some("floating"));
    let ips = fixed.filter_map(|address| ip(address, "/addr")).collect();
    Some(Machine { id: text(server, "/id")?.to_owned(), ips, state })
}
