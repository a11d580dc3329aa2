//! Image configs: what to run, and what the layers are made of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{Digest, Error, Result, json};

/// The config of an image. Its digest is the image ID; unknown fields survive.
///
/// # References
/// image-spec `config.md`; Docker image specification 1.3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// The processor architecture.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// When the image was made, as RFC 3339 text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The defaults for containers.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub config: RunConfig,
    /// The layers, as uncompressed archives.
    pub rootfs: RootFs,
    /// How the image came to be, oldest first.
    #[serde(default, deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// All other fields, as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl ImageConfig {
    /// An empty config for `os` and `architecture`.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self {
            architecture: architecture.into(),
            os: os.into(),
            variant: None,
            created: None,
            author: None,
            config: RunConfig::default(),
            rootfs: RootFs {
                kind: LAYERS.into(),
                diff_ids: Vec::new(),
            },
            history: Vec::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Reads a config.
    ///
    /// # Errors
    /// `InvalidJson`, `DocumentTooLarge`, and `InvalidConfig` for a root file system that is not
    /// made of layers.
    pub fn parse(raw: &[u8]) -> Result<Self> {
        let config: Self = json::parse(raw, "an image config")?;
        if config.rootfs.kind != LAYERS {
            let kind = &config.rootfs.kind;
            let doing = format!("read an image config: want rootfs type \"layers\", got {kind:?}");
            return Err(Error::invalid("InvalidConfig", doing));
        }
        Ok(config)
    }

    /// The config as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an image config has only text keys")
    }
}

/// What a container runs and how, unless its creator says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// The user, as `user`, `uid`, `user:group` or `uid:gid`; empty is uid 0.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports that the image listens on, as `80/tcp`. Never a port of the host.
    #[serde(deserialize_with = "set_from_object", serialize_with = "set_to_object")]
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// Variables, as `NAME=value`.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The program, or arguments for the entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths in the container that hold data of their own. Never a path of the host.
    #[serde(deserialize_with = "set_from_object", serialize_with = "set_to_object")]
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// The working directory; empty is `/`.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text by key.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to stop, by name or number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How to see whether the program works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell of the shell form in builds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for builds on top of this image.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// All other fields, as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A command that tells whether a container works. All times are nanoseconds, 0 is the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(deserialize_with = "json::null_is_default")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// From one run to the next.
    #[serde(rename = "Interval", skip_serializing_if = "is_zero")]
    pub interval_ns: i64,
    /// How long a run may take.
    #[serde(rename = "Timeout", skip_serializing_if = "is_zero")]
    pub timeout_ns: i64,
    /// How long the program may take to start.
    #[serde(rename = "StartPeriod", skip_serializing_if = "is_zero")]
    pub start_period_ns: i64,
    /// From one run to the next while it starts.
    #[serde(rename = "StartInterval", skip_serializing_if = "is_zero")]
    pub start_interval_ns: i64,
    /// How many failures make the container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// All other fields, as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The digests of the uncompressed layers, base first.
    #[serde(deserialize_with = "json::null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// One step of how an image came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, as RFC 3339 text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What somebody said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// All other fields, as they came.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The only type of root file system there is.
const LAYERS: &str = "layers";

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Docker writes a set as an object of empty objects.
fn set_from_object<'de, D: Deserializer<'de>>(reader: D) -> Result<BTreeSet<String>, D::Error> {
    let object: BTreeMap<String, Value> = json::null_is_default(reader)?;
    Ok(object.into_keys().collect())
}

fn set_to_object<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let empty = BTreeMap::<&str, ()>::new();
    serializer.collect_map(set.iter().map(|name| (name, &empty)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_words_nulls_and_unknown_fields_are_read() {
        let text = r#"{"architecture":"amd64","os":"linux","docker_version":"1","config":{
            "Env":null,"Cmd":["sh"],"Entrypoint":null,"Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}},
            "Healthcheck":{"Test":["NONE"],"Interval":5},"OnBuild":null,"ArgsEscaped":true},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{"empty_layer":true,"x":1}]}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
        assert!(config.config.exposed_ports.contains("80/tcp"));
        let again: Value = serde_json::from_slice(&config.to_json()).unwrap();
        assert_eq!(again["docker_version"], "1");
        assert_eq!(again["config"]["ArgsEscaped"], true);
        assert_eq!(again["config"]["Volumes"], serde_json::json!({"/v": {}}));
        assert_eq!(again["config"]["Healthcheck"]["Interval"], 5);
        assert_eq!(again["history"][0]["x"], 1);
        assert_eq!(ImageConfig::parse(&config.to_json()).unwrap(), config);
    }

    #[test]
    fn other_root_file_systems_are_refused() {
        let mut config = ImageConfig::new("linux", "amd64");
        config.rootfs.kind = "tree".into();
        assert_eq!(
            ImageConfig::parse(&config.to_json()).unwrap_err().code(),
            "InvalidConfig"
        );
    }
}
