//! Archives: docker, podman and skopeo load what we save, and we what they save.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use container_image::archive::{
    ArchiveFormat, ArchivedImage, ImportOptions, LoadOptions, SaveOptions, import, load, save,
};
use container_image::layer::Compression;
use container_image::{History, Image, Manifest, MediaType, Reference};
use serde_json::Value;

use crate::fixture::*;
use crate::programs::{has, podman, run, skopeo};

const NAME: &str = "example.com/team/app:v1";

/// An image of two layers in `dir`, and its name.
fn image(dir: &Path) -> ArchivedImage {
    let store = open_store(&dir.join("store"));
    let name: Reference = NAME.parse().unwrap();
    let layers = [
        tar_of(&[("etc/motd", b"hello"), ("data", &noise(9, 300_000))]),
        tar_of(&[("etc/.wh.motd", b""), ("bin/app", b"#!")]),
    ];
    let image = make_image(&store, &name, &layers);
    ArchivedImage::new(image, vec![name])
}

fn save_to(path: &Path, image: &ArchivedImage, format: ArchiveFormat) {
    let mut options = SaveOptions::default();
    options.format = format;
    save(
        std::slice::from_ref(image),
        File::create(path).unwrap(),
        &options,
    )
    .unwrap();
}

/// Loads the archive `path` into a new store and checks that it holds `want`, named as it was.
fn check_load(path: &Path, want: &Image) -> Image {
    let dir = temp_dir();
    let store = open_store(dir.path());
    let file = File::open(path).unwrap();
    let loaded = load(file, &store, &LoadOptions::default());
    let loaded = loaded.unwrap_or_else(|error| panic!("{}: {}", path.display(), error.report()));
    assert_eq!(loaded.len(), 1, "{}", path.display());
    assert_eq!(loaded[0].image.id(), want.id(), "{}", path.display());
    assert_eq!(
        loaded[0].names,
        [NAME.parse().unwrap()],
        "{}",
        path.display()
    );
    let tree = Directories::new(&dir.path().join("tree"));
    container_image::unpack(&loaded[0].image, &tree, &Default::default()).unwrap();
    assert_eq!(
        tree.files(&loaded[0].image)[Path::new("data")],
        noise(9, 300_000)
    );
    loaded[0].image.clone()
}

#[test]
fn skopeo_copies_our_archives_and_we_load_its() {
    if !has("skopeo") {
        return;
    }
    let dir = temp_dir();
    let ours = image(dir.path());
    let digest = ours.image.digest();
    for (format, transport) in [
        (ArchiveFormat::Docker, "docker-archive"),
        (ArchiveFormat::Oci, "oci-archive"),
        (ArchiveFormat::Docker, "oci-archive"),
    ] {
        let path = dir.path().join(format!("{format:?}-{transport}.tar"));
        save_to(&path, &ours, format);
        let from = format!("{transport}:{}:{NAME}", path.display());
        let layout = dir.path().join(format!("{format:?}-{transport}"));
        let to = format!("oci:{}:{NAME}", layout.display());
        run(skopeo(dir.path()).args(["copy", "--quiet", &from, &to]));
        let copied = open_store(&layout).resolve(&NAME.parse().unwrap()).unwrap();
        assert_eq!(copied.id(), ours.image.id());
        if transport == "oci-archive" {
            assert_eq!(copied.digest(), digest);
        }
        let back = dir.path().join(format!("back-{format:?}-{transport}.tar"));
        let to = format!("{transport}:{}:{NAME}", back.display());
        run(skopeo(dir.path()).args(["copy", "--quiet", &from, &to]));
        let loaded = check_load(&back, &ours.image);
        if transport == "oci-archive" {
            assert_eq!(loaded.digest(), digest);
        }
    }
}

#[test]
fn privileged_podman_loads_our_archives_and_we_load_its() {
    if !has("podman") || !rustix::process::geteuid().is_root() {
        println!("skipped: needs podman and root");
        return;
    }
    let dir = temp_dir();
    let ours = image(dir.path());
    let podman = |args: &[&str]| podman(dir.path(), args);
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        let path = dir.path().join(format!("{format:?}.tar"));
        save_to(&path, &ours, format);
        let said = podman(&["load", "-q", "-i", path.to_str().unwrap()]);
        assert!(said.contains(NAME), "{said}");
        let id = podman(&["image", "inspect", NAME, "--format", "{{.Id}}"]);
        assert_eq!(id.trim(), ours.image.id().hex());
        for written in ["docker-archive", "oci-archive"] {
            let path = dir.path().join(format!("{format:?}-{written}.tar"));
            podman(&[
                "save",
                "-q",
                "--format",
                written,
                "-o",
                path.to_str().unwrap(),
                NAME,
            ]);
            check_load(&path, &ours.image);
        }
        podman(&["rmi", NAME]);
    }
}

#[test]
fn privileged_the_history_is_what_podman_tells() {
    if !has("podman") || !rustix::process::geteuid().is_root() {
        println!("skipped: needs podman and root");
        return;
    }
    let dir = temp_dir();
    let made = image(dir.path());
    let mut config = made.image.config().clone();
    let step = |by: &str, empty_layer: bool| History {
        created: Some("2024-01-02T03:04:05Z".into()),
        created_by: Some(by.into()),
        comment: empty_layer.then(|| "nothing but words".into()),
        empty_layer,
        ..History::default()
    };
    config.history = vec![
        step("ADD base.tar /", false),
        step("ENV A=1", true),
        step("RUN make", false),
        step("CMD [\"sh\"]", true),
    ];
    let store = made.image.store();
    let lease = store.lease().unwrap();
    let config = lease.put(MediaType::CONFIG, &config.to_json()).unwrap();
    let manifest = Manifest::new(config, made.image.manifest().layers().to_vec()).unwrap();
    lease.put(MediaType::MANIFEST, manifest.raw()).unwrap();
    let image = store.record(manifest.descriptor(), &made.names[0]).unwrap();
    let path = dir.path().join("image.tar");
    save_to(
        &path,
        &ArchivedImage::new(image.clone(), made.names),
        ArchiveFormat::Docker,
    );
    podman(dir.path(), &["load", "-q", "-i", path.to_str().unwrap()]);
    let theirs = podman(
        dir.path(),
        &["history", "--no-trunc", "--format", "json", NAME],
    );
    let theirs: Value = serde_json::from_str(&theirs).unwrap();
    let theirs = theirs.as_array().unwrap();
    let ours = image.history();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().rev().zip(theirs) {
        assert_eq!(theirs["CreatedBy"], *ours.step.created_by.as_ref().unwrap());
        let comment = theirs["comment"].as_str();
        assert_eq!(comment, ours.step.comment.as_deref());
        let size = match &ours.layer {
            Some(layer) => image.measure(layer).unwrap().archive_bytes,
            None => 0,
        };
        assert_eq!(theirs["size"], size);
    }
}

#[test]
fn privileged_docker_loads_our_archives_and_we_load_its() {
    if !has("dockerd") || !has("docker") || !rustix::process::geteuid().is_root() {
        println!("skipped: needs docker and root");
        return;
    }
    let dir = temp_dir();
    let ours = image(dir.path());
    save_to(&dir.path().join("ours.tar"), &ours, ArchiveFormat::Docker);
    let nameless = ArchivedImage::new(ours.image.clone(), Vec::new());
    save_to(
        &dir.path().join("nameless.tar"),
        &nameless,
        ArchiveFormat::Docker,
    );
    let flat = dir.path().join("flat.tar");
    let made = ours
        .image
        .write_flat(File::create(&flat).unwrap(), Compression::None);
    let changes = CHANGES
        .map(|change| format!("--change '{change}' "))
        .concat();
    let script = dir.path().join("script");
    fs::write(&script, DOCKER.replace("CHANGES", &changes)).unwrap();
    // A daemon in namespaces of its own, which end with the script.
    let said = run(Command::new("unshare")
        .args([
            "-m",
            "-n",
            "-p",
            "-f",
            "--mount-proc",
            "--kill-child",
            "sh",
            "-e",
        ])
        .arg(&script)
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .stdin(Stdio::null()));
    let inspected: Value = serde_json::from_str(&said).unwrap();
    let id = ours.image.id().to_string();
    assert_eq!(inspected[0]["Id"], id);
    assert_eq!(inspected[0]["RepoTags"][0], NAME);
    let layers = ours
        .image
        .layers()
        .iter()
        .map(|layer| layer.diff_id.to_string());
    assert_eq!(inspected[0]["RootFS"]["Layers"], Value::from_iter(layers));
    assert_eq!(
        fs::read_to_string(dir.path().join("nameless.id"))
            .unwrap()
            .trim(),
        id
    );
    check_load(&dir.path().join("docker.tar"), &ours.image);

    // An archive of files becomes the same image there.
    let mut options = ImportOptions::default();
    options.changes = CHANGES.map(String::from).to_vec();
    let imported = import(File::open(&flat).unwrap(), ours.image.store(), &options).unwrap();
    let theirs = fs::read(dir.path().join("imported.json")).unwrap();
    let theirs: Value = serde_json::from_slice(&theirs).unwrap();
    assert_eq!(
        theirs[0]["RootFS"]["Layers"][0],
        made.unwrap().diff_id.to_string()
    );
    let config = serde_json::to_value(&imported.config().config).unwrap();
    for (key, value) in config.as_object().unwrap() {
        assert_eq!(theirs[0]["Config"][key], *value, "{key}");
    }
    assert_eq!(
        imported.layers()[0].diff_id.to_string(),
        theirs[0]["RootFS"]["Layers"][0]
    );
    // A container of the image has our files, and what Docker puts into every container.
    let listed = fs::read_to_string(dir.path().join("exported")).unwrap();
    let listed: Vec<_> = listed.lines().filter(|path| !path.ends_with('/')).collect();
    let docker = [
        ".dockerenv",
        "dev/console",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
    ];
    let rest = listed.iter().filter(|path| !docker.contains(path));
    assert_eq!(rest.collect::<Vec<_>>(), [&"bin/app", &"data"]);

    let store = open_store(&dir.path().join("by-id"));
    let file = File::open(dir.path().join("by-id.tar")).unwrap();
    let loaded = load(file, &store, &LoadOptions::default()).unwrap();
    assert_eq!(loaded[0].image.id(), ours.image.id());
    assert!(loaded[0].names.is_empty());
}

/// Loads `ours.tar` and `nameless.tar`, saves by name and by ID, tells what docker sees.
const DOCKER: &str = r#"
mount --make-rprivate /
mount -t tmpfs none /run
mkdir data
dockerd --data-root "$PWD/data" --exec-root /run/exec -H unix:///run/docker.sock -p /run/pid \
    --bridge none --iptables=false --storage-driver vfs > log 2>&1 &
export DOCKER_HOST=unix:///run/docker.sock
tries=0
until docker version > /dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 300 ] || { cat log >&2; exit 1; }
    sleep 0.1
done
docker load -q -i nameless.tar > /dev/null
docker images -q --no-trunc > nameless.id
docker load -q -i ours.tar > /dev/null
docker save -o docker.tar example.com/team/app:v1
docker save "$(cat nameless.id)" > by-id.tar
docker import CHANGES flat.tar imported > /dev/null
docker image inspect imported > imported.json
docker create --name made example.com/team/app:v1 > /dev/null
docker export made | tar -t > exported
docker image inspect example.com/team/app:v1
"#;

/// What an image is imported with.
const CHANGES: [&str; 9] = [
    "CMD [\"/bin/app\", \"a b\"]",
    "ENTRYPOINT /bin/app",
    "ENV A=1 B=\"x y\"",
    "EXPOSE 80 53/udp",
    "LABEL k=v",
    "USER 7:7",
    "VOLUME /data",
    "WORKDIR /srv",
    "ONBUILD RUN make",
];
