//! What a pull chooses, and what it tells.

use std::path::Path;
use std::process::Command;

use container_engine::container_image::{Digest, ImageBuilder, PushOptions, Store, push};
use container_engine::{ErrorKind, Platform};
use serde_json::Value;

use super::{example, open, serve_busybox, text};
use crate::support::fixtures::Registry;
use crate::support::isolate::isolated;
use crate::support::peers;

/// The host's platform first.
fn platforms() -> [Platform; 2] {
    let other = match std::env::consts::ARCH {
        "x86_64" => "arm64",
        _ => "amd64",
    };
    [Platform::host(), Platform::new("linux", other, None)]
}

fn run(program: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("run a peer");
    let errors = text(&output.stderr);
    assert!(
        output.status.success(),
        "{program:?} {arguments:?}: {errors}"
    );
    output.stdout
}

#[test]
fn privileged_an_index_of_others_gives_the_image_for_a_platform() {
    isolated(|place| {
        let (Some(buildah), Some(skopeo), Some(registry)) = (
            peers::find("buildah"),
            peers::find("skopeo"),
            Registry::start(place.dir()),
        ) else {
            return;
        };
        let name = |tag: &str| format!("{}/box:{tag}", registry.address());
        let storage = place.dir().join("buildah");
        let at = |dir: &str| storage.join(dir).display().to_string();
        let (root, runroot) = (at("root"), at("run"));
        let manifest = |arguments: &[&str]| {
            let place = [
                "--storage-driver",
                "vfs",
                "--root",
                &root,
                "--runroot",
                &runroot,
            ];
            run(&buildah, &[&place, &["manifest"][..], arguments].concat())
        };

        let store = Store::open(place.dir().join("made")).expect("open a store");
        manifest(&["create", "list"]);
        let made = platforms().map(|platform| {
            let name = name(&platform.architecture);
            let image = ImageBuilder::new()
                .platform(platform.clone())
                .file("/platform", platform.to_string(), 0o644)
                .build(&store)
                .expect("build");
            let reference = name.parse().expect("a name");
            push(&image, &reference, &PushOptions::default()).expect("push");
            manifest(&[
                "add",
                "--tls-verify=false",
                "list",
                &format!("docker://{name}"),
            ]);
            image
        });
        for tag in ["latest", "stable"] {
            let target = format!("docker://{}", name(tag));
            manifest(&["push", "--all", "--tls-verify=false", "list", &target]);
        }
        let source = format!("docker://{}", name("latest"));
        let index = run(
            &skopeo,
            &["inspect", "--raw", "--tls-verify=false", &source],
        );
        let offered: Value = serde_json::from_slice(&index).expect("JSON");
        let offered = offered["manifests"].as_array().expect("an index").clone();

        let images = open(place).images();
        let [host, other] = platforms();
        let pulled = [
            images.pull(&name("latest")),
            images
                .pull_with(&name("stable"))
                .platform(other.clone())
                .run(),
        ];
        for ((pulled, made), platform) in pulled.into_iter().zip(&made).zip([&host, &other]) {
            let pulled = pulled.expect("pull");
            assert_eq!((pulled.id(), pulled.digest()), (made.id(), made.digest()));
            assert_eq!(pulled.index_digest(), Some(Digest::of(&index)));
            let entry = offered
                .iter()
                .find(|entry| entry["platform"]["architecture"] == platform.architecture.as_str());
            assert_eq!(
                entry.expect("offered")["digest"],
                pulled.digest().to_string()
            );
        }
        // The digests stay known, and each tag has its image.
        let found = images.get(&name("stable")).expect("get");
        assert_eq!(found.digest(), made[1].digest());
        assert_eq!(found.index_digest(), Some(Digest::of(&index)));
        assert_eq!(images.get(&name("latest")).expect("get").id(), made[0].id());

        let absent = Platform::new("linux", "s390x", None);
        let absent = images.pull_with(&name("latest")).platform(absent).run();
        let absent = absent.expect_err("not offered");
        assert_eq!(
            (absent.kind(), absent.code()),
            (ErrorKind::NotFound, "PlatformNotFound")
        );
        for platform in [&host, &other] {
            let report = absent.report();
            assert!(report.contains(&platform.to_string()), "{report}");
        }
    });
}

#[test]
fn privileged_a_pull_says_what_docker_says() {
    isolated(|place| {
        let Some((_server, name)) = serve_busybox(place.dir()) else {
            return;
        };
        let root = place.dir().join("example");
        let pull = || {
            let mut command = Command::new(example("pull"));
            let output = command.arg("--root").arg(&root).arg(&name).output();
            let output = output.expect("run the example");
            assert!(output.status.success(), "{}", text(&output.stderr));
            text(&output.stdout)
        };
        let image = open(place).images().pull(&name).expect("pull");
        let digest = image.digest();
        let first = pull();
        let lines: Vec<_> = first.lines().collect();
        let (id, _) = lines[1].split_once(": ").expect("a layer");
        assert!(
            id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        assert_eq!(
            lines[..2],
            [
                "latest: Pulling from busybox",
                &format!("{id}: Pulling fs layer")
            ]
        );
        assert_eq!(
            lines[lines.len() - 3..],
            [
                format!("{id}: Pull complete"),
                format!("Digest: {digest}"),
                format!("Status: Downloaded newer image for {name}"),
            ],
            "{first}"
        );
        let again = pull();
        assert_eq!(
            again,
            format!(
                "latest: Pulling from busybox\n{id}: Already exists\nDigest: {digest}\n\
                 Status: Image is up to date for {name}"
            )
        );
    });
}
