//! Hetzner Cloud: the metadata service for the zone, and with a project's read-only token the servers with a label.

use std::net::IpAddr;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Api, Failure, Here, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    bearer, encoded, endless, ip, items, read_json, secret_file, text,
};
use crate::config::{CloudSettings, Find};
use crate::edge::web::Reply;

const API: &str = "https://api.hetzner.cloud";

pub(super) struct Hetzner {
    settings: CloudSettings,
}

impl Hetzner {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings }
    }

    async fn get(&self, api: &Api, what: &str, path: &str) -> Result<Reply, Failure> {
        let token = bearer(&secret_file(&self.settings).await?);
        let url = format!("{}/v1/{path}", base(&self.settings.endpoint, API));
        api.send(&Request { secrets: vec![("authorization", &token)], ..Request::get(what, url) }).await
    }
}

#[async_trait]
impl Provider for Hetzner {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let base = base(&self.settings.metadata, METADATA);
        let url = format!("{base}/hetzner/v1/metadata/availability-zone");
        let reply = api.ask(&Request::get("metadata", url)).await?;
        let zone = String::from_utf8_lossy(&reply.body).trim().to_owned();
        let plain = zone.len() <= 64 && zone.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        Ok(Here::of((plain && !zone.is_empty()).then_some(zone)))
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let Find::Tag(key, value) = self.settings.find.clone() else { return Ok(Listing::new()) };
        let selector = encoded(&format!("{key}=={}", value.unwrap_or_default()));
        let (what, mut listing, mut page) = ("servers", Listing::new(), 1_u64);
        for _ in 0..MOST_PAGES {
            let path = format!("servers?label_selector={selector}&per_page=50&page={page}");
            let json = read_json(what, &accept(what, self.get(api, what, &path).await?)?)?;
            listing.machines.extend(items(&json, "/servers").filter_map(machine));
            match json.pointer("/meta/pagination/next_page").and_then(Value::as_u64) {
                Some(next) if next > page => page = next,
                _ => return Ok(listing),
            }
        }
        Err(endless(what))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let reply = self.get(api, "server", &format!("servers/{}", encoded(id))).await?;
        if reply.status == 404 {
            return read_json("server", &reply).map(|json| text(&json, "/error/code") == Some("not_found"));
        }
        accept("server", reply).map(|_| false)
    }
}

fn machine(server: &Value) -> Option<Machine> {
    let state = match text(server, "/status")? {
        "running" | "starting" | "initializing" => State::Running,
        _ => State::Other,
    };
    let mut ips: Vec<_> = items(server, "/private_net").filter_map(|net| ip(net, "/ip")).collect();
    if ips.is_empty() {
        ips.extend(ip(server, "/public_net/ipv4/ip"));
    }
    // A server has a network of IPv6, and takes the first address of it.
    let six = text(server, "/public_net/ipv6/ip").and_then(|net| net.split('/').next());
    ips.extend(six.and_then(|net| format!("{net}1").parse::<IpAddr>().ok()));
    Some(Machine { id: server.pointer("/id")?.as_u64()?.to_string(), ips, state })
}
