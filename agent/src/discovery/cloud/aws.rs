//! Amazon EC2: the metadata service in its second version, `autoscaling:DescribeAutoScalingInstances` and
//! `autoscaling:DescribeAutoScalingGroups` for a group, `ec2:DescribeInstances` for addresses. Signed with the instance's role.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::Method;
use roxmltree::{Document, Node};
use serde_json::Value;

use super::sigv4::{self, Signed, Signer};
use super::{
    Api, Failure, Here, Kept, Listing, METADATA, MOST_PAGES, Machine, Provider, Request, State, accept, base,
    encoded, endless, read_json, text,
};
use crate::config::{CloudSettings, Find};
use crate::core::Secret;
use crate::edge::web::Reply;

/// Life asked for a token of the metadata service.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

pub(super) struct Aws {
    settings: CloudSettings,
    token: Kept,
    me: Option<Me>,
}

/// What does not change while the machine lives.
#[derive(Clone)]
struct Me {
    instance: String,
    region: String,
    zone: String,
}

struct Credentials {
    key_id: String,
    secret: Secret,
    session: Secret,
}

type Parameters<'a> = Vec<(&'a str, String)>;

impl Aws {
    pub(super) fn new(settings: CloudSettings) -> Self {
        Self { settings, token: Kept::default(), me: None }
    }

    /// Asks the metadata service, with its token; a token that it no longer takes is replaced once.
    async fn metadata(&mut self, api: &Api, path: &str) -> Result<Option<Reply>, Failure> {
        let base = base(&self.settings.metadata, METADATA).to_owned();
        for _ in 0..2 {
            let token = match self.token.good() {
                Some(token) => token,
                None => {
                    let life = TOKEN_LIFE.as_secs().to_string();
                    let request = Request {
                        method: Method::PUT,
                        headers: vec![("x-aws-ec2-metadata-token-ttl-seconds", &life)],
                        ..Request::get("metadata token", format!("{base}/latest/api/token"))
                    };
                    let reply = api.ask(&request).await?;
                    let token = String::from_utf8_lossy(&reply.body).trim().to_owned();
                    let told = reply.header("x-aws-ec2-metadata-token-ttl-seconds");
                    let life =
                        told.and_then(|told| told.parse().ok()).map_or(TOKEN_LIFE, Duration::from_secs);
                    self.token.keep(Secret::new(token), life)
                }
            };
            let request = Request {
                secrets: vec![("x-aws-ec2-metadata-token", &token)],
                ..Request::get("metadata", format!("{base}/latest/{path}"))
            };
            let reply = api.send(&request).await?;
            match reply.status {
                401 => self.token.forget(),
                404 => return Ok(None),
                _ => return accept("metadata", reply).map(Some),
            }
        }
        Err(Failure::new("metadata: its tokens are not taken"))
    }

    async fn me(&mut self, api: &Api) -> Result<Me, Failure> {
        if let Some(me) = &self.me {
            return Ok(me.clone());
        }
        let reply = self.metadata(api, "dynamic/instance-identity/document").await?;
        let reply = reply.ok_or_else(|| Failure::new("metadata: no identity document"))?;
        let document = read_json("metadata", &reply)?;
        let field = |name: &str| {
            let found = text(&document, name).map(str::to_owned);
            found.ok_or_else(|| Failure::new(format!("metadata: the identity document has no {name}")))
        };
        let me = Me {
            instance: field("/instanceId")?,
            region: field("/region")?,
            zone: field("/availabilityZone")?,
        };
        self.me = Some(me.clone());
        Ok(me)
    }

    async fn credentials(&mut self, api: &Api) -> Result<Credentials, Failure> {
        let place = "meta-data/iam/security-credentials/";
        let role = self
            .metadata(api, place)
            .await?
            .map(|reply| String::from_utf8_lossy(&reply.body).trim().to_owned());
        let role = role.filter(|role| !role.is_empty() && !role.contains(['/', '\n', '?', '#']));
        let role = role
            .ok_or_else(|| Failure::new("this instance has no role: give it one, see docs/discovery.md"))?;
        let reply = self.metadata(api, &format!("{place}{role}")).await?;
        let json: Value = read_json(
            "role credentials",
            &reply.ok_or_else(|| Failure::new("the role has no credentials"))?,
        )?;
        let field = |name: &str| {
            let found = text(&json, name).map(str::to_owned);
            found.ok_or_else(|| Failure::new(format!("role credentials: no {name}")))
        };
        Ok(Credentials {
            key_id: field("/AccessKeyId")?,
            secret: Secret::new(field("/SecretAccessKey")?),
            session: Secret::new(field("/Token")?),
        })
    }

    /// Asks one of the query APIs.
    async fn query(
        &mut self,
        api: &Api,
        service: &str,
        action: &str,
        parameters: &[(&str, String)],
    ) -> Result<String, Failure> {
        let reply = self.send(api, service, action, parameters).await?;
        let reply = accept(action, reply)?;
        String::from_utf8(reply.body).map_err(|_| Failure::new(format!("{action}: the answer is not text")))
    }

    async fn send(
        &mut self,
        api: &Api,
        service: &str,
        action: &str,
        parameters: &[(&str, String)],
    ) -> Result<Reply, Failure> {
        let me = self.me(api).await?;
        let credentials = self.credentials(api).await?;
        let region = self.settings.region.clone().unwrap_or(me.region);
        let top = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let usual = format!("https://{service}.{region}.{top}");
        let url = format!("{}/", base(&self.settings.endpoint, &usual));
        let host = url.split_once("://").map_or("", |(_, rest)| rest);
        let (host, path) =
            host.split_once('/').map_or((host, "/".to_owned()), |(host, path)| (host, format!("/{path}")));
        let version = if service == "ec2" { "2016-11-15" } else { "2011-01-01" };
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in parameters {
            body.push_str(&format!("&{}={}", encoded(name), encoded(value)));
        }
        let unix = (api.wall)();
        let date = sigv4::date(unix);
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        let signed = [
            ("content-type", form),
            ("host", host),
            ("x-amz-date", &date),
            ("x-amz-security-token", credentials.session.expose()),
        ];
        let signer = Signer {
            key_id: &credentials.key_id,
            secret: &credentials.secret,
            region: &region,
            service,
            unix,
        };
        let request =
            Signed { method: "POST", path: &path, query: &[], headers: &signed, body: body.as_bytes() };
        let authorization = Secret::new(sigv4::authorization(&signer, &request));
        api.send(&Request {
            what: action,
            method: Method::POST,
            url: url.clone(),
            headers: vec![("content-type", form), ("x-amz-date", &date)],
            secrets: vec![("x-amz-security-token", &credentials.session), ("authorization", &authorization)],
            body: Some(body.clone().into_bytes()),
        })
        .await
    }

    /// The own group's name and largest size: without the name there is nothing to list by, without the size there is.
    async fn group(&mut self, api: &Api) -> Result<(String, Result<Option<u32>, Failure>), Failure> {
        let me = self.me(api).await?;
        let what = "DescribeAutoScalingInstances";
        let said = self.query(api, "autoscaling", what, &[("InstanceIds.member.1", me.instance)]).await?;
        let name = find_text(&parse(what, &said)?, "AutoScalingGroupName");
        let name = name.ok_or_else(|| Failure::new("this instance is in no autoscaling group"))?;
        let max = self.group_max(api, &name).await;
        Ok((name, max))
    }

    async fn group_max(&mut self, api: &Api, name: &str) -> Result<Option<u32>, Failure> {
        let what = "DescribeAutoScalingGroups";
        let parameters = [("AutoScalingGroupNames.member.1", name.to_owned())];
        let said = self.query(api, "autoscaling", what, &parameters).await?;
        Ok(find_text(&parse(what, &said)?, "MaxSize").and_then(|max| max.parse().ok()))
    }

    /// The notice that this instance will be taken away.
    async fn ending(&mut self, api: &Api) -> Result<Option<String>, Failure> {
        let spot = self.metadata(api, "meta-data/spot/instance-action").await?;
        let spot = spot.and_then(|reply| {
            let json: Value = serde_json::from_slice(&reply.body).ok()?;
            Some(format!("spot: {} at {}", text(&json, "/action")?, text(&json, "/time")?))
        });
        if spot.is_some() {
            return Ok(spot);
        }
        let state = self.metadata(api, "meta-data/autoscaling/target-lifecycle-state").await?;
        let leaves = state.filter(|reply| reply.body.trim_ascii() == b"Terminated");
        Ok(leaves.map(|_| "autoscaling: this instance is to be terminated".to_owned()))
    }
}

#[async_trait]
impl Provider for Aws {
    async fn here(&mut self, api: &Api) -> Result<Here, Failure> {
        let zone = Some(self.me(api).await?.zone);
        Ok(Here { zone, ending: self.ending(api).await })
    }

    async fn list(&mut self, api: &Api) -> Result<Listing, Failure> {
        let mut listing = Listing::new();
        let (key, value) = match self.settings.find.clone() {
            Find::Group => {
                let (name, max) = self.group(api).await?;
                listing.group_max = max;
                ("aws:autoscaling:groupName".to_owned(), name)
            }
            Find::Tag(key, value) => (key, value.unwrap_or_default()),
            Find::Metadata => return Ok(listing),
        };
        let what = "DescribeInstances";
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut parameters: Parameters = vec![
                ("Filter.1.Name", format!("tag:{key}")),
                ("Filter.1.Value.1", value.clone()),
                ("MaxResults", "200".to_owned()),
            ];
            parameters.extend(token.take().map(|token| ("NextToken", token)));
            let said = self.query(api, "ec2", what, &parameters).await?;
            let document = parse(what, &said)?;
            listing.machines.extend(machines(&document));
            token = find_text(&document, "nextToken").filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(listing);
            }
        }
        Err(endless(what))
    }

    async fn is_gone(&mut self, api: &Api, id: &str) -> Result<bool, Failure> {
        let what = "DescribeInstances";
        let reply = self.send(api, "ec2", what, &[("InstanceId.1", id.to_owned())]).await?;
        if reply.status == 400 && super::said(&reply.body).as_deref() == Some("InvalidInstanceID.NotFound") {
            return Ok(true);
        }
        let reply = accept(what, reply)?;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        let machines = machines(&parse(what, &said)?);
        Ok(machines.iter().any(|machine| machine.id == id && machine.state == State::Gone))
    }
}

fn parse<'a>(what: &str, said: &'a str) -> Result<Document<'a>, Failure> {
    // An entity may unfold to anything: AWS sends no document type, and none is taken.
    let options = roxmltree::ParsingOptions { allow_dtd: false, ..roxmltree::ParsingOptions::default() };
    Document::parse_with_options(said, options)
        .map_err(|error| Failure::new(format!("{what}: not XML: {error}")))
}

fn named<'a, 'b>(node: Node<'a, 'b>, name: &'a str) -> impl Iterator<Item = Node<'a, 'b>> {
    node.children().filter(move |child| child.tag_name().name() == name)
}

fn find_text(document: &Document<'_>, name: &str) -> Option<String> {
    let node = document.descendants().find(|node| node.tag_name().name() == name)?;
    node.text().map(|text| text.trim().to_owned())
}

fn machines(document: &Document<'_>) -> Vec<Machine> {
    let sets = document.descendants().filter(|node| node.tag_name().name() == "instancesSet");
    sets.flat_map(|set| named(set, "item"))
        .filter_map(|item| {
            let child = |name: &str| {
                named(item, "instanceId").chain(item.children()).find(|node| node.tag_name().name() == name)
            };
            let id = child("instanceId")?.text()?.trim().to_owned();
            let state =
                child("instanceState")?.children().find(|node| node.tag_name().name() == "name")?.text()?;
            let state = match state.trim() {
                "pending" | "running" => State::Running,
                // `shutting-down` still runs what it ran.
                "terminated" => State::Gone,
                _ => State::Other,
            };
            let four = child("privateIpAddress").and_then(|node| node.text()?.trim().parse().ok());
            let six = item
                .descendants()
                .filter(|node| node.tag_name().name() == "ipv6Address")
                .filter_map(|node| node.text()?.trim().parse().ok());
            Some(Machine { id, ips: four.into_iter().chain(six).collect(), state })
        })
        .collect()
}
