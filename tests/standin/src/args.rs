//! Command line, config files and environment, merged the way k3s merges them.
//!
//! k3s turns the files into command-line arguments placed in front of the real ones, so the command line wins over the
//! files, and for list options both count. The environment is used only for options found nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::flags::{self, Flag, Kind};

/// Where k3s looks when neither `--config` nor `K3S_CONFIG_FILE` is given.
pub const DEFAULT_CONFIG: &str = "/etc/rancher/k3s/config.yaml";

/// Merged options of one run.
#[derive(Default)]
pub struct Parsed {
    values: BTreeMap<&'static str, Vec<String>>,
    /// What is not an option, in order.
    pub rest: Vec<String>,
    /// Keys of the files that the command does not know (already reported).
    pub unknown: Vec<String>,
}

impl Parsed {
    /// The last value of an option; an empty one counts as absent, as in k3s.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(|v| v.last()).map(String::as_str).filter(|v| !v.is_empty())
    }
    /// Whether a switch is on.
    pub fn is_set(&self, name: &str) -> bool {
        self.value(name) == Some("true")
    }
    /// Every value of a list option, commas split.
    pub fn list(&self, name: &str) -> Vec<String> {
        let all = self.values.get(name).map(Vec::as_slice).unwrap_or_default();
        all.iter()
            .flat_map(|v| v.split(','))
            .map(str::trim)
            .filter(|v| !v.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// Merges everything for `command`. `arguments` is what follows the command word; `environment` looks a variable up.
///
/// # Errors
/// The text k3s prints: an option that does not exist, one without its value, an unreadable or malformed file.
pub fn parse(
    command: &str,
    arguments: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Parsed, String> {
    let table = flags::of(command).unwrap_or_default();
    let mut parsed = Parsed::default();
    let mut all = Vec::new();
    if let Some(file) = config_file(arguments, environment) {
        for (key, value) in read_files(&file)? {
            // The agent leaves unknown keys in place, and its command-line parser then dies of them.
            if command == "agent" || table.iter().any(|f| f.name == key || f.alias == key) {
                all.push(dashed(&key, &value));
            } else {
                parsed.unknown.push(format!("{}{key}", if key.len() == 1 { "-" } else { "--" }));
            }
        }
    }
    all.extend_from_slice(arguments);
    read_arguments(&table, &all, &mut parsed)?;
    for flag in &table {
        if !flag.env.is_empty()
            && !parsed.values.contains_key(flag.name)
            && let Some(value) = environment(flag.env).filter(|v| !v.is_empty())
        {
            parsed.values.insert(flag.name, vec![value]);
        }
    }
    Ok(parsed)
}

fn dashed(key: &str, value: &str) -> String {
    format!("{}{key}={value}", if key.len() == 1 { "-" } else { "--" })
}

fn config_file(arguments: &[String], environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(file) = environment("K3S_CONFIG_FILE").filter(|v| !v.is_empty()) {
        return Some(file.into());
    }
    for (at, argument) in arguments.iter().enumerate() {
        if argument == "--config" || argument == "-c" {
            return arguments.get(at + 1).map(PathBuf::from);
        }
        for name in ["--config=", "-c="] {
            if let Some(file) = argument.strip_prefix(name) {
                return Some(file.into());
            }
        }
    }
    Some(DEFAULT_CONFIG.into())
}

fn read_files(main: &Path) -> Result<Vec<(String, String)>, String> {
    let mut drop_ins = PathBuf::from(main).into_os_string();
    drop_ins.push(".d");
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&drop_ins) {
        Ok(entries) => entries.flatten().map(|e| e.path()).filter(|p| p.is_file() && is_yaml(p)).collect(),
        Err(_) => Vec::new(),
    };
    files.sort();
    if main.exists() {
        files.insert(0, main.to_owned());
    }
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("open {}: {e}", file.display()))?;
        for (key, value) in read_yaml(&text).map_err(|e| format!("yaml: {}: {e}", file.display()))? {
            let (name, append) = match key.strip_suffix('+') {
                Some(name) => (name.to_owned(), true),
                None => (key, false),
            };
            if !order.contains(&name) {
                order.push(name.clone());
            }
            let slot = values.entry(name).or_default();
            if !append {
                slot.clear();
            }
            slot.extend(value);
        }
    }
    Ok(order
        .into_iter()
        .flat_map(|key| values.remove(&key).unwrap_or_default().into_iter().map(move |v| (key.clone(), v)))
        .collect())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("yaml") || e.eq_ignore_ascii_case("yml"))
}

fn read_yaml(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => Ok(map.into_iter().map(|(k, v)| (k, texts(v))).collect()),
        _ => Err("unmarshal errors: cannot unmarshal into a map".to_owned()),
    }
}

fn texts(value: Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.into_iter().flat_map(texts).collect(),
        Value::String(text) => vec![text],
        Value::Null => vec![String::new()],
        other => vec![other.to_string()],
    }
}

fn read_arguments(table: &[Flag], all: &[String], parsed: &mut Parsed) -> Result<(), String> {
    let mut arguments = all.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            parsed.rest.extend(arguments.cloned());
            break;
        }
        let Some(stripped) = argument.strip_prefix('-').filter(|s| !s.is_empty()) else {
            parsed.rest.push(argument.clone());
            continue;
        };
        let stripped = stripped.strip_prefix('-').unwrap_or(stripped);
        let (name, given) = match stripped.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (stripped, None),
        };
        let flag = table
            .iter()
            .find(|f| f.name == name || (!f.alias.is_empty() && f.alias == name))
            .ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
        let value = match (flag.kind, given) {
            (Kind::Bool, None) => "true".to_owned(),
            (Kind::Bool, Some(value)) => match value.as_str() {
                "1" | "t" | "T" | "TRUE" | "true" | "True" => "true".to_owned(),
                "0" | "f" | "F" | "FALSE" | "false" | "False" | "" => "false".to_owned(),
                _ => return Err(format!("invalid boolean value \"{value}\" for -{name}: parse error")),
            },
            (_, Some(value)) => value,
            (_, None) => {
                arguments.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        let slot = parsed.values.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            slot.clear();
        }
        slot.push(value);
    }
    Ok(())
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
