//! The JSON documents of the supervisor: configuration and addresses, in the shape of Go's encoder.

use serde_json::{Value, json};

use crate::shared::Shared;

/// `address:port` of an endpoint slice.
pub fn addresses(slice: &Value) -> Vec<String> {
    let port = slice["ports"][0]["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(6443);
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let mut all: Vec<String> = endpoints
        .flat_map(|e| e["addresses"].as_array().into_iter().flatten())
        .filter_map(Value::as_str)
        .map(|address| crate::network::join(address, port))
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Go's JSON of an IPNet.
fn ip_net(cidr: &str) -> Value {
    use base64::Engine as _;
    let (address, length) = cidr.split_once('/').unwrap_or((cidr, "0"));
    let length: usize = length.parse().unwrap_or(0);
    let size = if address.contains(':') { 16 } else { 4 };
    let mask: Vec<u8> = (0..size)
        .map(|byte| {
            let bits = length.saturating_sub(byte * 8).min(8);
            u8::MAX.checked_shl(8 - bits as u32).unwrap_or(0)
        })
        .collect();
    let network = crate::network::indexed(cidr, 0).unwrap_or_else(|_| address.to_owned());
    json!({"IP": network, "Mask": base64::engine::general_purpose::STANDARD.encode(mask)})
}

/// The document at `/v1-k3s/config`, also what a joiner compares itself with.
pub fn config(shared: &Shared) -> Value {
    let settings = &shared.settings;
    let mut value = critical(&settings.critical);
    value["AdvertiseIP"] = json!(settings.advertise_ip);
    value["HTTPSPort"] = json!(settings.port);
    value["SupervisorPort"] = json!(settings.port);
    value["APIServerPort"] = json!(crate::server::APISERVER_PORT);
    value["DataDir"] = json!(settings.agent.data_dir.join("server"));
    value["ServerNodeName"] = json!(settings.agent.node_name);
    value["PrivateIP"] = json!(settings.agent.node_ip);
    value["ClusterInit"] = json!(settings.cluster_init);
    value["JoinURL"] = json!(settings.agent.server_url);
    value["SANs"] = json!(settings.sans);
    value
}

/// The critical settings as they stand in that document.
pub fn critical(c: &crate::settings::Critical) -> Value {
    let nets = |list: &[String]| list.iter().map(|cidr| ip_net(cidr)).collect::<Vec<_>>();
    json!({
        "ClusterIPRanges": nets(&c.cluster_cidr), "ClusterIPRange": ip_net(&c.cluster_cidr[0]),
        "ServiceIPRanges": nets(&c.service_cidr), "ServiceIPRange": ip_net(&c.service_cidr[0]),
        "ClusterDNSs": c.cluster_dns, "ClusterDNS": c.cluster_dns[0], "ClusterDomain": c.cluster_domain,
        "DisableCCM": c.disable_cloud_controller, "DisableHelmController": c.disable_helm_controller,
        "DisableNPC": c.disable_network_policy, "EncryptSecrets": c.secrets_encryption,
        "EncryptProvider": c.secrets_encryption_provider, "EmbeddedRegistry": c.embedded_registry,
        "FlannelBackend": c.flannel_backend, "FlannelIPv6Masq": c.flannel_ipv6_masq,
        "FlannelExternalIP": c.flannel_external_ip, "EgressSelectorMode": c.egress_selector_mode,
        "SupervisorMetrics": c.supervisor_metrics,
    })
}
