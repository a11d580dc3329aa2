//! Images to work on, and a registry of another project to keep them in.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::peers;

/// How long `docker-registry` may take to answer after its start.
const REGISTRY_START: Duration = Duration::from_secs(30);

/// Writes an OCI image layout with a busybox image into `dir`, tagged `latest`, and gives its path; nothing if there
/// is no busybox.
///
/// The image holds `/bin/busybox` with a link for each of its applets, the usual empty directories, and users `root`
/// and `nobody`; its command is `sh`.
pub(crate) fn busybox_layout(dir: &Path) -> Option<PathBuf> {
    let busybox = peers::find("busybox")?;
    let program = fs::read(&busybox).expect("read busybox");
    let applets = Command::new(&busybox)
        .arg("--list")
        .output()
        .expect("run busybox")
        .stdout;
    let applets = String::from_utf8(applets).expect("names in ASCII");

    let mut tar = Tar::new();
    for (name, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
    ] {
        tar.entry(EntryType::Directory, name, mode, "", b"");
    }
    tar.entry(EntryType::Directory, "tmp", 0o1777, "", b"");
    tar.entry(EntryType::Regular, "bin/busybox", 0o755, "", &program);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tar.entry(
            EntryType::Symlink,
            &format!("bin/{applet}"),
            0o777,
            "busybox",
            b"",
        );
    }
    tar.entry(
        EntryType::Regular,
        "etc/group",
        0o644,
        "",
        b"root:x:0:\nnogroup:x:65534:\n",
    );
    let users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    tar.entry(EntryType::Regular, "etc/passwd", 0o644, "", users);

    let layout = dir.join("busybox");
    write_layout(
        &layout,
        &mut tar.finish().as_slice(),
        &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}),
    )
    .expect("write the layout");
    Some(layout)
}

/// Gives the path of an OCI image layout, tagged `latest`, with a small Debian and Perl in it; nothing if there is no
/// `mmdebstrap`.
///
/// Made once, from the configured package archive, and kept among the build products. Needs root and the host's
/// network: to be called before [`isolated`](super::isolate::isolated).
pub(crate) fn debian_layout() -> Option<PathBuf> {
    let mmdebstrap = peers::find("mmdebstrap")?;
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let layout = cache.join("debian");
    // Held until the end of the function: tests that run at the same time wait for the first.
    let lock = File::create(cache.join("debian.lock")).expect("create a lock file");
    flock(&lock, FlockOperation::LockExclusive).expect("lock");
    if layout.join("index.json").exists() {
        return Some(layout);
    }
    let root = cache.join("debian.tar");
    let output = Command::new(mmdebstrap)
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--include=perl",
            "bookworm",
        ])
        .arg(&root)
        .output()
        .expect("run mmdebstrap");
    assert!(
        output.status.success(),
        "mmdebstrap: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut tar = File::open(&root).expect("open what mmdebstrap made");
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    write_layout(&layout, &mut tar, &json!({"Cmd": ["bash"], "Env": [path]}))
        .expect("write the layout");
    fs::remove_file(root).expect("remove the archive");
    Some(layout)
}

/// Debian's `docker-registry` on a port of this network namespace; ends when dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    server: Child,
    address: SocketAddrV4,
    log: PathBuf,
}

impl Registry {
    /// Starts the server with its storage, configuration and log in `dir`, and waits until it answers; nothing if it
    /// is not installed.
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        let program = peers::find("docker-registry")?;
        let address = free_address();
        let storage = dir.join("registry");
        let config = json!({
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": storage}, "delete": {"enabled": true}},
            "http": {"addr": address.to_string()},
        });
        // JSON is YAML too.
        let config_path = dir.join("registry.yml");
        fs::write(&config_path, config.to_string()).expect("write the configuration");
        let log = dir.join("registry.log");
        let output = File::create(&log).expect("create the log");
        let server = Command::new(program)
            .arg("serve")
            .arg(config_path)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate a descriptor"))
            .stderr(output)
            .spawn()
            .expect("run docker-registry");
        let mut registry = Self {
            server,
            address,
            log,
        };
        registry.wait_until_it_answers();
        Some(registry)
    }

    /// Host and port, as they stand in image references.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What the server logged so far; a line for each request among it.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("read the log")
    }

    fn wait_until_it_answers(&mut self) {
        let end = Instant::now() + REGISTRY_START;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.server.try_wait().expect("wait for docker-registry");
            assert!(
                ended.is_none() && Instant::now() < end,
                "docker-registry does not answer: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn free_address() -> SocketAddrV4 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    SocketAddrV4::new(
        Ipv4Addr::LOCALHOST,
        listener.local_addr().expect("its address").port(),
    )
}

/// A tar archive in memory, its entries owned by root and from the beginning of 1970.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(&mut self, kind: EntryType, path: &str, mode: u32, link: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            self.0
                .append_data(&mut header, path, content)
                .expect("append");
        } else {
            self.0.append_link(&mut header, path, link).expect("append");
        }
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("finish")
    }
}

/// Writes an OCI image layout with one image of one uncompressed layer; `run` is what a container of it does.
///
/// The index comes last: where it is, the layout is complete.
///
/// # References
/// image-spec `image-layout.md`
fn write_layout(dir: &Path, layer: &mut dyn Read, run: &Value) -> io::Result<()> {
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    fs::create_dir_all(dir.join("blobs/sha256"))?;
    let layer = write_blob(dir, LAYER, layer)?;
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        "history": [{"created_by": "test fixture"}],
    });
    let config = write_blob(dir, CONFIG, &mut config.to_string().as_bytes())?;
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = write_blob(dir, MANIFEST, &mut manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    fs::write(
        dir.join("oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"}).to_string(),
    )?;
    fs::write(
        dir.join("index.json"),
        json!({"schemaVersion": 2, "manifests": [manifest]}).to_string(),
    )
}

/// Stores `content` under its digest and gives its descriptor.
fn write_blob(dir: &Path, media_type: &str, content: &mut dyn Read) -> io::Result<Value> {
    let temporary = dir.join("blobs/unfinished");
    let mut blob = HashingFile {
        file: File::create(&temporary)?,
        hash: Sha256::new(),
    };
    let size = io::copy(content, &mut blob)?;
    let hex: String = blob
        .hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::rename(temporary, dir.join("blobs/sha256").join(&hex))?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": size}))
}

struct HashingFile {
    file: File,
    hash: Sha256,
}

impl Write for HashingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::isolate::isolated;

    fn run(program: &Path, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn privileged_busybox_goes_through_skopeo_to_the_registry() {
        isolated(|place| {
            let (Some(layout), Some(registry), Some(skopeo)) = (
                busybox_layout(place.dir()),
                Registry::start(place.dir()),
                peers::find("skopeo"),
            ) else {
                return;
            };
            let source = format!("oci:{}:latest", layout.display());
            let target = format!("docker://{}/busybox:latest", registry.address());
            run(
                &skopeo,
                &[
                    "copy",
                    "--insecure-policy",
                    "--dest-tls-verify=false",
                    &source,
                    &target,
                ],
            );
            let config = run(
                &skopeo,
                &["inspect", "--config", "--tls-verify=false", &target],
            );
            let config: Value = serde_json::from_str(&config).unwrap();
            assert_eq!(config["config"]["Cmd"], json!(["sh"]));
            assert!(
                registry.log().contains("PUT /v2/busybox/manifests/latest"),
                "{}",
                registry.log()
            );
        });
    }

    #[test]
    fn privileged_debian_layout_is_unpacked_by_umoci() {
        if !rustix::process::geteuid().is_root() {
            return crate::support::skip("needs root");
        }
        let Some(layout) = debian_layout() else {
            return;
        };
        isolated(|place| {
            let Some(umoci) = peers::find("umoci") else {
                return;
            };
            let bundle = place.dir().join("bundle");
            run(
                &umoci,
                &[
                    "unpack",
                    "--image",
                    &format!("{}:latest", layout.display()),
                    bundle.to_str().unwrap(),
                ],
            );
            let release = fs::read_to_string(bundle.join("rootfs/etc/os-release")).unwrap();
            assert!(release.contains("bookworm"), "{release}");
            assert!(bundle.join("rootfs/usr/bin/perl").exists());
        });
    }
}
