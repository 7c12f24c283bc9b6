//! Azure: the instance metadata service, and with a managed identity that may read them the network interfaces of the scale set, or
//! of the resource group by tag.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{
    Api, Failure, Here, Kept, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    bearer, encoded, endless, ip, items, next_page, read_json, text,
};
use crate::config::{CloudSettings, Find};
use crate::core::Secret;
use crate::edge::web::Reply;

const API: &str = "https://management.azure.com";

pub(super) struct Azure {
    settings: CloudSettings,
    token: Kept,
}

struct Me {
    subscription: String,
    resources: String,
    scale_set: Option<String>,
    name: String,
    zone: Option<String>,
}

impl Azure {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings, token: Kept::default() }
    }

    async fn metadata(&self, api: &Api, path: &str) -> Result<Value, Failure> {
        let base = base(&self.settings.metadata, METADATA);
        let url = format!("{base}/metadata/{path}");
        let request = Request { headers: vec![("metadata", "true")], ..Request::get("metadata", url) };
        api.json(&request).await
    }

    async fn me(&self, api: &Api) -> Result<Me, Failure> {
        let json = self.metadata(api, "instance?api-version=2021-02-01").await?;
        let field = |place: &str| text(&json, place).filter(|text| !text.is_empty()).map(str::to_owned);
        let needed = |place: &str| field(place).ok_or_else(|| Failure::new(format!("metadata: no {place}")));
        // A zone is a number within its location.
        let zone = match (field("/compute/location"), field("/compute/zone")) {
            (Some(location), Some(zone)) => Some(format!("{location}-{zone}")),
            (location, _) => location,
        };
        Ok(Me {
            subscription: needed("/compute/subscriptionId")?,
            resources: needed("/compute/resourceGroupName")?,
            scale_set: field("/compute/vmScaleSetName"),
            name: needed("/compute/name")?,
            zone,
        })
    }

    async fn token(&mut self, api: &Api) -> Result<Secret, Failure> {
        if let Some(token) = self.token.good() {
            return Ok(token);
        }
        let resource = encoded("https://management.azure.com/");
        let path = format!("identity/oauth2/token?api-version=2018-02-01&resource={resource}");
        let json = self.metadata(api, &path).await?;
        let token = text(&json, "/access_token")
            .ok_or_else(|| Failure::new("the managed identity gives no token"))?;
        let life = text(&json, "/expires_in").and_then(|life| life.parse().ok()).unwrap_or(0);
        Ok(self.token.keep(bearer(&Secret::new(token.to_owned())), Duration::from_secs(life)))
    }

    async fn get(&mut self, api: &Api, what: &str, url: &str) -> Result<Reply, Failure> {
        let mut again = true;
        loop {
            let token = self.token(api).await?;
            let request =
                Request { secrets: vec![("authorization", &token)], ..Request::get(what, url.to_owned()) };
            let reply = api.send(&request).await?;
            if reply.status != 401 || !again {
                return Ok(reply);
            }
            self.token.forget();
            again = false;
        }
    }

    /// The largest size that an autoscale setting allows the scale set.
    async fn group_max(&mut self, api: &Api, top: &str, scale_set: &str) -> Result<Option<u32>, Failure> {
        let url = format!("{top}/providers/Microsoft.Insights/autoscalesettings?api-version=2022-10-01");
        let what = "autoscale settings";
        let json = read_json(what, &accept(what, self.get(api, what, &url).await?)?)?;
        let end = format!("/virtualmachinescalesets/{}", scale_set.to_ascii_lowercase());
        let ours = items(&json, "/value").filter(|setting| {
            let target = text(setting, "/properties/targetResourceUri").unwrap_or_default();
            target.to_ascii_lowercase().ends_with(&end)
        });
        let profiles = ours.flat_map(|setting| items(setting, "/properties/profiles"));
        Ok(profiles.filter_map(|profile| text(profile, "/capacity/maximum")?.parse().ok()).max())
    }

    /// The notice that this machine will be taken away.
    async fn ending(&self, api: &Api, name: &str) -> Result<Option<String>, Failure> {
        let events = self.metadata(api, "scheduledevents?api-version=2020-07-01").await;
        let events = events.map_err(|failure| Failure {
            cause: format!("scheduled events: {}", failure.cause),
            ..failure
        })?;
        Ok(items(&events, "/Events").find_map(|event| {
            let kind = text(event, "/EventType").filter(|kind| matches!(*kind, "Preempt" | "Terminate"))?;
            let ours = items(event, "/Resources").any(|resource| resource.as_str() == Some(name));
            let when = text(event, "/NotBefore").filter(|when| !when.is_empty()).unwrap_or("any moment");
            ours.then(|| format!("azure: {kind}, not before {when}"))
        }))
    }
}

#[async_trait]
impl Provider for Azure {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let me = self.me(api).await?;
        Ok(Here { ending: self.ending(api, &me.name).await, zone: me.zone })
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let me = self.me(api).await?;
        let base = base(&self.settings.endpoint, API).to_owned();
        let top = format!(
            "{base}/subscriptions/{}/resourceGroups/{}",
            encoded(&me.subscription),
            encoded(&me.resources)
        );
        let mut listing = Listing::new();
        let (mut url, tag) = match self.settings.find.clone() {
            Find::Metadata => return Ok(listing),
            Find::Group => {
                let set = me.scale_set.ok_or_else(|| Failure::new("this machine is in no scale set"))?;
                listing.group_max = self.group_max(api, &top, &set).await;
                let compute = "providers/Microsoft.Compute/virtualMachineScaleSets";
                (format!("{top}/{compute}/{}/networkInterfaces?api-version=2018-10-01", encoded(&set)), None)
            }
            Find::Tag(key, value) => (
                format!("{top}/providers/Microsoft.Network/networkInterfaces?api-version=2023-09-01"),
                Some((key, value)),
            ),
        };
        let what = "network interfaces";
        for _ in 0..MOST_PAGES {
            let json = read_json(what, &accept(what, self.get(api, what, &url).await?)?)?;
            for card in items(&json, "/value") {
                let tags = card.pointer("/tags");
                let wanted = tag.as_ref().is_none_or(|(key, value)| {
                    tags.and_then(|tags| tags.get(key)).and_then(Value::as_str) == value.as_deref()
                });
                if wanted {
                    listing.machines.extend(machine(card));
                }
            }
            match next_page(&base, text(&json, "/nextLink"))? {
                Some(next) => url = next,
                None => return Ok(listing),
            }
        }
        Err(endless(what))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let url = format!("{}{id}?api-version=2023-09-01", base(&self.settings.endpoint, API));
        let reply = self.get(api, "virtual machine", &url).await?;
        if reply.status == 404 {
            return read_json("virtual machine", &reply).map(|json| json.pointer("/error/code").is_some());
        }
        accept("virtual machine", reply).map(|_| false)
    }
}

fn machine(card: &Value) -> Option<Machine> {
    // The id is asked for again later: nothing but the path of a machine may come of it.
    let id = text(card, "/properties/virtualMachine/id")?;
    if !id.starts_with("/subscriptions/") || id.contains(['?', '#', ' ']) {
        return None;
    }
    let addresses = items(card, "/properties/ipConfigurations");
    let ips = addresses.filter_map(|address| ip(address, "/properties/privateIPAddress")).collect();
    Some(Machine { id: id.to_owned(), ips, state: State::Running })
}
