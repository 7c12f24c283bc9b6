//! DigitalOcean: the metadata service for the region, and with a token that may read them the droplets with a tag.

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Api, Failure, Here, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    bearer, encoded, endless, ip, items, next_page, read_json, secret_file, text,
};
use crate::config::{CloudSettings, Find};
use crate::edge::web::Reply;

const API: &str = "https://api.digitalocean.com";

pub(super) struct DigitalOcean {
    settings: CloudSettings,
}

impl DigitalOcean {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings }
    }

    async fn get(&self, api: &Api, what: &str, url: String) -> Result<Reply, Failure> {
        let token = bearer(&secret_file(&self.settings).await?);
        api.send(&Request { secrets: vec![("authorization", &token)], ..Request::get(what, url) }).await
    }
}

#[async_trait]
impl Provider for DigitalOcean {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let url = format!("{}/metadata/v1.json", base(&self.settings.metadata, METADATA));
        let json = api.json(&Request::get("metadata", url)).await?;
        Ok(Here::of(text(&json, "/region").map(str::to_owned)))
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let Find::Tag(tag, _) = self.settings.find.clone() else { return Ok(Listing::new()) };
        let base = base(&self.settings.endpoint, API).to_owned();
        let mut url = format!("{base}/v2/droplets?tag_name={}&per_page=200", encoded(&tag));
        let (what, mut listing) = ("droplets", Listing::new());
        for _ in 0..MOST_PAGES {
            let json = read_json(what, &accept(what, self.get(api, what, url).await?)?)?;
            listing.machines.extend(items(&json, "/droplets").filter_map(machine));
            match next_page(&base, text(&json, "/links/pages/next"))? {
                Some(next) => url = next,
                None => return Ok(listing),
            }
        }
        Err(endless(what))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let url = format!("{}/v2/droplets/{}", base(&self.settings.endpoint, API), encoded(id));
        let reply = self.get(api, "droplet", url).await?;
        if reply.status == 404 {
            return read_json("droplet", &reply).map(|json| text(&json, "/id") == Some("not_found"));
        }
        accept("droplet", reply).map(|_| false)
    }
}

fn machine(droplet: &Value) -> Option<Machine> {
    let state = match text(droplet, "/status")? {
        "new" | "active" => State::Running,
        _ => State::Other,
    };
    let of = |kind: &'static str| {
        let nets = items(droplet, "/networks/v4").filter(move |net| text(net, "/type") == Some(kind));
        nets.filter_map(|net| ip(net, "/ip_address")).collect::<Vec<_>>()
    };
    let mut ips = of("private");
    if ips.is_empty() {
        ips = of("public");
    }
    ips.extend(items(droplet, "/networks/v6").filter_map(|net| ip(net, "/ip_address")));
    Some(Machine { id: droplet.pointer("/id")?.as_u64()?.to_string(), ips, state })
}
