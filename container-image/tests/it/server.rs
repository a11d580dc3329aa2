//! The registry server: what it answers, whom it lets in, and what it throws away.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use container_image::server::{
    GarbageOptions, Htpasswd, Project, Projects, Role, Server, ServerOptions,
};
use container_image::{
    AuthFile, Client, Credentials, Descriptor, Digest, ErrorKind, Manifest, MediaType, Reference,
    pull, push,
};
use serde_json::{Value, json};

use crate::fixture::*;
use crate::programs::*;

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends one request and reads its answer.
fn ask(
    server: &Server,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let split = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Answer {
        status,
        headers: lines.map(split).collect(),
        body: answer[end + 4..].to_vec(),
    }
}

#[test]
fn uploads_come_in_pieces_in_order_and_can_be_given_up() {
    let server = serve();
    let start = || {
        let started = ask(&server, "POST", "/v2/app/blobs/uploads/", &[], b"");
        assert_eq!(started.status, 202);
        started.header("location").to_owned()
    };
    let bytes = b"0123456789";
    let digest = Digest::of(bytes);
    let place = start();
    let patch =
        |range: &str, part: &[u8]| ask(&server, "PATCH", &place, &[("Content-Range", range)], part);
    let first = patch("0-3", b"0123");
    assert_eq!((first.status, first.header("range")), (202, "0-3"));
    // Out of order, and twice.
    for (range, part) in [("6-9", &b"6789"[..]), ("0-3", b"0123")] {
        let refused = patch(range, part);
        assert_eq!((refused.status, refused.header("range")), (416, "0-3"));
    }
    let progress = ask(&server, "GET", &place, &[], b"");
    assert_eq!((progress.status, progress.header("range")), (204, "0-3"));
    // Under another repository there is no such upload.
    let elsewhere = place.replace("/app/", "/other/");
    assert_eq!(ask(&server, "GET", &elsewhere, &[], b"").status, 404);
    let finished = ask(
        &server,
        "PUT",
        &format!("{place}?digest={digest}"),
        &[("Content-Range", "4-9")],
        &bytes[4..],
    );
    assert_eq!(finished.status, 201);
    let blob = finished.header("location").to_owned();
    assert_eq!(ask(&server, "GET", &blob, &[], b"").body, bytes);
    assert_eq!(ask(&server, "GET", &place, &[], b"").status, 404);

    let place = start();
    assert_eq!(ask(&server, "DELETE", &place, &[], b"").status, 204);
    assert_eq!(ask(&server, "PATCH", &place, &[], b"x").status, 404);
    // A wrong digest, or none of a known kind.
    for digest in [
        Digest::of(b"other").to_string(),
        "sha256:x".into(),
        "md5:00".into(),
    ] {
        let wrong = ask(
            &server,
            "PUT",
            &format!("{}?digest={digest}", start()),
            &[],
            bytes,
        );
        assert_eq!(wrong.status, 400);
        assert_eq!(wrong.json()["errors"][0]["code"], "DIGEST_INVALID");
    }
}

#[test]
fn blobs_come_in_one_request_by_mounting_and_by_range() {
    let server = serve();
    let digest = Digest::of(b"0123456789");
    let target = format!("/v2/app/blobs/uploads/?digest={digest}");
    assert_eq!(
        ask(&server, "POST", &target, &[], b"0123456789").status,
        201
    );
    for (mount, from, status) in [
        (digest, "app", 201),
        (digest, "nobody", 202),
        (Digest::of(b"missing"), "app", 202),
    ] {
        let target = format!("/v2/other/blobs/uploads/?mount={mount}&from={from}");
        assert_eq!(ask(&server, "POST", &target, &[], b"").status, status);
    }
    let blob = format!("/v2/other/blobs/{digest}");
    for (range, status, bytes) in [
        ("bytes=0-3", 206, "0123"),
        ("bytes=7-", 206, "789"),
        ("bytes=-2", 206, "89"),
        ("bytes=10-", 416, ""),
        ("lines=1-2", 200, "0123456789"),
    ] {
        let answer = ask(&server, "GET", &blob, &[("Range", range)], b"");
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(String::from_utf8(answer.body).unwrap(), bytes, "{range}");
    }
    let head = ask(&server, "HEAD", &blob, &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
    assert_eq!(ask(&server, "DELETE", &blob, &[], b"").status, 202);
    assert_eq!(ask(&server, "GET", &blob, &[], b"").status, 404);
    assert_eq!(ask(&server, "DELETE", &blob, &[], b"").status, 404);
    // The other repository still has it.
    assert_eq!(
        ask(&server, "GET", &blob.replace("other", "app"), &[], b"").status,
        200
    );
}

#[test]
fn blobs_and_manifests_can_be_named_by_sha512() {
    let server = serve();
    let empty = b"{}";
    let long = "sha512:27c74670adb75075fad058d5ceaf7b20c4e7786c83bae8a32f626f9782af34c9\
                a33c2046ef60fd2a7878d378e29fec851806bbd9a67878f3a9f1cda4830763fd";
    for digest in [long, &Digest::of(empty).to_string()] {
        let target = format!("/v2/app/blobs/uploads/?digest={digest}");
        assert_eq!(ask(&server, "POST", &target, &[], empty).status, 201);
        let got = ask(&server, "GET", &format!("/v2/app/blobs/{digest}"), &[], b"");
        assert_eq!(
            (got.body.as_slice(), got.header("docker-content-digest")),
            (&empty[..], digest)
        );
    }
    let place = ask(&server, "POST", "/v2/app/blobs/uploads/", &[], b"");
    let place = format!("{}?digest={long}", place.header("location"));
    assert_eq!(ask(&server, "PUT", &place, &[], b"[]").status, 400);
    let config = json!({"mediaType": MediaType::CONFIG, "digest": long, "size": 2});
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
    let put = ask(
        &server,
        "PUT",
        "/v2/app/manifests/v1",
        &[],
        manifest.as_bytes(),
    );
    assert_eq!(put.status, 201);
    let got = ask(&server, "GET", "/v2/app/manifests/v1", &[], b"");
    assert_eq!(got.body, manifest.as_bytes());
    assert_eq!(got.header("content-type"), MediaType::MANIFEST.as_str());
}

#[test]
fn manifests_are_taken_whole_and_clear_or_not_at_all() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app:v1", 100);
    let put = |name: &str, body: &str| {
        let media_type = MediaType::MANIFEST;
        let kind = [("Content-Type", media_type.as_str())];
        ask(
            &server,
            "PUT",
            &format!("/v2/app/manifests/{name}"),
            &kind,
            body.as_bytes(),
        )
    };
    let raw = String::from_utf8(image.manifest().raw().to_vec()).unwrap();
    let missing = Digest::of(b"missing").to_string();
    let other = raw.replace(&image.id().to_string(), &missing);
    let elsewhere = json!([{
        "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "digest": missing, "size": 5,
    }]);
    let mut foreign: Value = serde_json::from_str(&raw).unwrap();
    foreign["layers"] = elsewhere;
    for (name, body, status, code) in [
        ("v2", raw.clone(), 201, ""),
        ("v3", foreign.to_string(), 201, ""),
        (&image.digest().to_string(), raw.clone(), 201, ""),
        (&missing, raw.clone(), 400, "DIGEST_INVALID"),
        ("v2", other, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v2", "{}".into(), 400, "MANIFEST_INVALID"),
        (
            "v2",
            raw.replace("{\"schema", "{\"manifests\":[],\"schema"),
            400,
            "MANIFEST_INVALID",
        ),
        ("v2", format!("{raw} x"), 400, "MANIFEST_INVALID"),
        (".v2", raw.clone(), 400, "TAG_INVALID"),
        ("v2", " ".repeat((4 << 20) + 1), 413, "SIZE_INVALID"),
    ] {
        let answer = put(name, &body);
        assert_eq!(answer.status, status, "{name} {code}");
        if status != 201 {
            assert_eq!(answer.json()["errors"][0]["code"], code, "{name}");
        }
    }
    let several = put(&format!("{}?tag=a&tag=b", image.digest()), &raw);
    assert_eq!((several.status, several.header("oci-tag")), (201, "a, b"));
    let tags: Result<Vec<_>, _> = Client::new(impatient()).tags(&reference).collect();
    assert_eq!(tags.unwrap(), ["a", "b", "v1", "v2", "v3"]);
    // A tag goes alone, a digest with all of its tags.
    assert_eq!(
        ask(&server, "DELETE", "/v2/app/manifests/a", &[], b"").status,
        202
    );
    let digest = format!("/v2/app/manifests/{}", image.digest());
    assert_eq!(ask(&server, "GET", &digest, &[], b"").status, 200);
    assert_eq!(ask(&server, "DELETE", &digest, &[], b"").status, 202);
    assert_eq!(ask(&server, "GET", &digest, &[], b"").status, 404);
    assert_eq!(
        ask(&server, "GET", "/v2/app/manifests/v1", &[], b"").status,
        404
    );
    assert_eq!(
        ask(&server, "GET", "/v2/app/manifests/v3", &[], b"").status,
        200
    );
}

#[test]
fn referrers_are_listed_filtered_and_forgotten() {
    let server = serve();
    let (_, image, _dir) = published(&server, "app:v1", 100);
    let list = |query: &str| {
        let target = format!("/v2/app/referrers/{}{query}", image.digest());
        ask(&server, "GET", &target, &[], b"")
    };
    let none = list("");
    assert_eq!(
        (none.status, none.header("content-type")),
        (200, MediaType::INDEX.as_str())
    );
    assert_eq!(none.json()["manifests"], json!([]));
    let config = image.manifest().config();
    let mut digests = Vec::new();
    for artifact_type in ["application/a", "application/b"] {
        let body = json!({
            "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "artifactType": artifact_type,
            "config": config, "layers": [], "subject": image.manifest().descriptor(),
        })
        .to_string();
        digests.push(Digest::of(&body));
        let target = format!("/v2/app/manifests/{}", Digest::of(&body));
        let put = ask(&server, "PUT", &target, &[], body.as_bytes());
        assert_eq!(put.header("oci-subject"), image.digest().to_string());
    }
    assert_eq!(list("").json()["manifests"].as_array().unwrap().len(), 2);
    let filtered = list("?artifactType=application/b");
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let found = filtered.json()["manifests"].clone();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["digest"], digests[1].to_string());
    let target = format!("/v2/app/manifests/{}", digests[1]);
    assert_eq!(ask(&server, "DELETE", &target, &[], b"").status, 202);
    assert_eq!(
        list("?artifactType=application/b").json()["manifests"],
        json!([])
    );
    assert_eq!(
        ask(&server, "GET", "/v2/app/referrers/x", &[], b"").status,
        400
    );
}

/// Names `count` tags for one image.
fn tag_often(client: &Client, reference: &Reference, count: usize) {
    let config = Descriptor::of(MediaType::CONFIG, b"{}");
    let mut open = || Ok(Box::new(&b"{}"[..]) as Box<dyn Read>);
    client
        .put_blob(reference, &config, None, &mut open)
        .unwrap();
    let manifest = Manifest::new(config, Vec::new()).unwrap();
    for number in 0..count {
        let tag = reference.with_tag(&format!("v{number:05}")).unwrap();
        client
            .put_manifest(&tag, &MediaType::MANIFEST, manifest.raw())
            .unwrap();
    }
}

#[test]
fn long_lists_come_in_pages() {
    let server = serve();
    let client = Client::new(impatient());
    let app = reference(&server, "app");
    tag_often(&client, &app, 2500);
    server.clear_log();
    let tags: Result<Vec<_>, _> = client.tags(&app).collect();
    let tags = tags.unwrap();
    assert_eq!(tags.len(), 2500);
    assert!(tags.is_sorted());
    assert_eq!(server.log().len(), 3);
    // Only what is asked for is fetched.
    server.clear_log();
    assert_eq!(client.tags(&app).next().unwrap().unwrap(), "v00000");
    assert_eq!(server.log().len(), 1);
    for (query, first, count, more) in [
        ("?n=2", "v00000", 2, true),
        ("?n=2&last=v00001", "v00002", 2, true),
        ("?n=5&last=v02497", "v02498", 2, false),
        ("?n=0", "", 0, false),
        ("?last=v02499", "", 0, false),
    ] {
        let page = ask(
            &server,
            "GET",
            &format!("/v2/app/tags/list{query}"),
            &[],
            b"",
        );
        let tags = page.json()["tags"].as_array().unwrap().clone();
        assert_eq!(
            (tags.len(), page.header("link").contains("rel=\"next\"")),
            (count, more),
            "{query}"
        );
        if count > 0 {
            assert_eq!(tags[0], first);
        }
    }
    for name in ["a", "b/c", "b/c/d"] {
        tag_often(&client, &reference(&server, name), 1);
    }
    let registry = server.address().to_string();
    let names: Result<Vec<_>, _> = client.catalog(&registry).collect();
    assert_eq!(names.unwrap(), ["a", "app", "b/c", "b/c/d"]);
}

#[test]
fn docker_registry_lists_a_thousand_tags() {
    if !has("docker-registry") {
        return;
    }
    let dir = temp_dir();
    let registry = DockerRegistry::start(dir.path(), "");
    let client = Client::new(impatient());
    let app: Reference = format!("{}/app", registry.address).parse().unwrap();
    tag_often(&client, &app, 1000);
    let tags: Result<Vec<_>, _> = client.tags(&app).collect();
    assert_eq!(tags.unwrap().len(), 1000);
    let names: Result<Vec<_>, _> = client.catalog(&registry.address).collect();
    assert_eq!(names.unwrap(), ["app"]);
}

#[test]
fn pages_that_lead_in_circles_or_away_are_not_followed() {
    use crate::http::HttpServer;
    let elsewhere = HttpServer::start(|_| (200, vec![], br#"{"tags":["evil"]}"#.to_vec()));
    let address = elsewhere.address;
    for link in [
        "</v2/app/tags/list?n=1&last=a>; rel=\"next\"".to_owned(),
        format!("<http://{address}/v2/app/tags/list>; rel=\"next\""),
        "</etc/passwd>; rel=\"next\"".to_owned(),
        "<".to_owned(),
    ] {
        let registry = HttpServer::start(move |_| {
            (
                200,
                vec![("Link".into(), link.clone())],
                br#"{"tags":["a"]}"#.to_vec(),
            )
        });
        let app: Reference = format!("{}/app", registry.address).parse().unwrap();
        let tags = Client::new(impatient()).tags(&app).count();
        assert!(tags <= 2, "{tags}");
    }
    assert_eq!(elsewhere.log().len(), 0);
}

fn options_for(server: &Server, user: Option<&str>) -> container_image::ClientOptions {
    let mut options = impatient();
    if let Some(user) = user {
        let credentials = Credentials::new(user, format!("{user}'s password"));
        options
            .credentials
            .insert(server.address().to_string(), credentials);
    }
    options
}

/// A file of users of `htpasswd`, each with his own password.
fn users(dir: &Path, names: &[&str]) -> Option<Htpasswd> {
    if !has_with("htpasswd", "-h") {
        return None;
    }
    let path = dir.join("users");
    for (at, name) in names.iter().enumerate() {
        let flags = if at == 0 { "-Bbc" } else { "-Bb" };
        let mut command = Command::new("htpasswd");
        command.arg(flags).arg(&path);
        run(command.args([*name, &format!("{name}'s password")]));
    }
    Some(Htpasswd::open(&path).unwrap())
}

#[test]
fn members_of_projects_may_do_what_their_role_allows() {
    let dir = temp_dir();
    let names = ["guest", "developer", "admin", "stranger", "root"];
    let Some(users) = users(dir.path(), &names) else {
        return;
    };
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(users));
    let members = |project: Project| {
        project
            .member("guest", Role::Guest)
            .member("developer", Role::Developer)
            .member("admin", Role::Admin)
    };
    let projects = Projects::new()
        .project("secret", members(Project::new()))
        .project("open", members(Project::public()))
        .project("own", Project::new().member("stranger", Role::Developer))
        .administrator("root");
    options.authorizer = Some(Arc::new(projects));
    let server = Server::start(options).unwrap();
    let store = open_store(&dir.path().join("store"));
    for project in ["secret", "open"] {
        let name = reference(&server, &format!("{project}/app:v1"));
        let image = make_image(&store, &name, &[tar_of(&[("a", b"1")])]);
        for (user, pulls, pushes, deletes) in [
            (None, project == "open", false, false),
            (Some("stranger"), project == "open", false, false),
            (Some("guest"), true, false, false),
            (Some("developer"), true, true, false),
            (Some("admin"), true, true, true),
            (Some("root"), true, true, true),
        ] {
            let root = Client::new(options_for(&server, Some("root")));
            let mut pushing = push_options();
            pushing.client = options_for(&server, Some("root"));
            push(&image, &name, &pushing).unwrap();
            let refused = if user.is_some() {
                ErrorKind::PermissionDenied
            } else {
                ErrorKind::Unauthorized
            };
            let check = |what: &str, result: Result<(), container_image::Error>, allowed: bool| {
                match result {
                    Ok(()) => assert!(allowed, "{project} {user:?} {what}"),
                    Err(error) => {
                        assert!(!allowed, "{project} {user:?} {what}: {error:?}");
                        assert_eq!(error.kind(), refused, "{project} {user:?} {what}");
                    }
                }
            };
            let client = Client::new(options_for(&server, user));
            check("pull", client.manifest(&name).map(|_| ()), pulls);
            pushing.client = options_for(&server, user);
            check("push", push(&image, &name, &pushing).map(|_| ()), pushes);
            check("delete", client.delete_manifest(&name), deletes);
            let all = client.catalog(&server.address().to_string()).next();
            check(
                "list",
                all.map_or(Ok(()), |one| one.map(|_| ())),
                user == Some("root"),
            );
            drop(root);
        }
    }
    // A blob does not come by mounting to whoever may not pull it where it is.
    let secret = reference(&server, "secret/app:v1");
    let layer = big_layer(&store.resolve(&secret).unwrap()).clone();
    let own = reference(&server, "own/app:v1");
    for (user, is_sent) in [("stranger", true), ("root", false)] {
        let client = Client::new(options_for(&server, Some(user)));
        let mut open = || Ok(Box::new(store.open_blob(&layer)?) as Box<dyn Read>);
        let sent = client.put_blob(&own, &layer, Some("secret/app"), &mut open);
        assert_eq!(sent.unwrap(), is_sent, "{user}");
    }
}

#[test]
fn users_of_htpasswd_get_in_with_their_password() {
    let dir = temp_dir();
    let Some(users) = users(dir.path(), &["user"]) else {
        return;
    };
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(users));
    let server = Server::start(options).unwrap();
    let registry = server.address().to_string();
    let file = AuthFile::new(dir.path().join("config.json"));
    let wrong = Credentials::new("user", "wrong");
    let error = file.login(&registry, &wrong, &impatient()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let right = Credentials::new("user", "user's password");
    file.login(&registry, &right, &impatient()).unwrap();
    for header in ["Basic !", "Basic dXNlcg==", "Bearer x", "", "Basic"] {
        let answer = ask(&server, "GET", "/v2/", &[("Authorization", header)], b"");
        assert_eq!(answer.status, 401, "{header}");
        assert_eq!(
            answer.header("www-authenticate"),
            "Basic realm=\"registry\""
        );
    }
    if has("skopeo") {
        let mut login = Command::new("skopeo");
        login.args(["login", "--tls-verify=false", "--username=user"]);
        login.args(["--password=user's password", "--authfile"]);
        run(login.arg(dir.path().join("skopeo")).arg(&registry));
    }
}

fn garbage(grace: Duration) -> GarbageOptions {
    let mut options = GarbageOptions::default();
    options.grace = grace;
    options
}

#[test]
fn garbage_goes_when_its_time_of_grace_is_over() {
    let dir = temp_dir();
    for root in [None, Some(dir.path().join("registry"))] {
        let mut options = ServerOptions::default();
        options.root = root;
        let server = Server::start(options).unwrap();
        let (first, image, _one) = published(&server, "app:v1", 100_000);
        let (second, other, _two) = published(&server, "other:v1", 50_000);
        let client = Client::new(impatient());
        let now = garbage(Duration::ZERO);
        assert_eq!(server.collect_garbage(&now).unwrap().blobs, [""; 0]);
        client
            .delete_manifest(&first.with_digest(image.digest()))
            .unwrap();
        // Still young.
        let later = server
            .collect_garbage(&garbage(Duration::from_secs(3600)))
            .unwrap();
        assert_eq!(later.blobs, [""; 0]);
        let mut dry = garbage(Duration::ZERO);
        dry.dry_run = true;
        let found = server.collect_garbage(&dry).unwrap();
        // Manifest, config and the layer of its own; the other layer and is shared.
        let shared = other.layers()[0].descriptor.digest;
        let mut expected: Vec<_> = [image.digest(), image.id(), big_layer(&image).digest]
            .map(|digest| digest.to_string())
            .to_vec();
        expected.sort();
        let mut blobs = found.blobs.clone();
        blobs.sort();
        assert_eq!(blobs, expected);
        assert!(found.size_bytes > 100_000);
        assert_eq!(server.collect_garbage(&now).unwrap(), found);
        assert_eq!(server.collect_garbage(&now).unwrap().blobs, [""; 0]);
        assert!(client.has_blob(&second, shared).unwrap());
        let target = temp_dir();
        pull(&second, &open_store(target.path()), &pull_options(), None).unwrap();
        assert!(!client.has_blob(&first, big_layer(&image).digest).unwrap());

        // Without its tag a manifest stays, unless it is not to.
        client.delete_manifest(&second).unwrap();
        assert_eq!(server.collect_garbage(&now).unwrap().blobs, [""; 0]);
        let mut untagged = garbage(Duration::ZERO);
        untagged.untagged = true;
        assert_eq!(server.collect_garbage(&untagged).unwrap().blobs.len(), 4);
        let left: Result<Vec<_>, _> = client.tags(&second).collect();
        assert!(left.map_or(true, |tags| tags.is_empty()));
    }
}

#[test]
fn what_is_about_an_image_stays_as_long_as_the_image() {
    let server = serve();
    let (reference, image, _dir) = published(&server, "app:v1", 100);
    let client = Client::new(impatient());
    let document = json!({
        "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "artifactType": "application/x",
        "config": image.manifest().config(), "layers": [],
        "subject": image.manifest().descriptor(),
    })
    .to_string();
    let by_digest = reference.with_digest(Digest::of(&document));
    client
        .put_manifest(&by_digest, &MediaType::MANIFEST, document.as_bytes())
        .unwrap();
    let mut untagged = garbage(Duration::ZERO);
    untagged.untagged = true;
    assert_eq!(server.collect_garbage(&untagged).unwrap().blobs, [""; 0]);
    client.delete_manifest(&reference).unwrap();
    assert_eq!(server.collect_garbage(&untagged).unwrap().blobs.len(), 5);
}

#[test]
fn whoever_collects_garbage_takes_nothing_from_whoever_pushes() {
    let dir = temp_dir();
    let root = dir.path().join("registry");
    let start = || {
        let mut options = ServerOptions::default();
        options.root = Some(root.clone());
        Server::start(options).unwrap()
    };
    // Two servers on one directory; the one collects while the other is pushed to.
    let (server, collector) = (start(), start());
    let store = open_store(&dir.path().join("store"));
    let base = tar_of(&[("base", &noise(1, 50_000))]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                collector
                    .collect_garbage(&garbage(Duration::from_secs(60)))
                    .unwrap();
            }
        });
        let pushes: Vec<_> = (0..4_u64)
            .map(|thread| {
                let (server, store, base) = (&server, &store, &base);
                scope.spawn(move || {
                    let client = Client::new(impatient());
                    for round in 0..8 {
                        let name = reference(server, &format!("app{thread}:v{round}"));
                        let own = tar_of(&[("own", &noise(thread * 100 + round, 1_000))]);
                        let image = make_image(store, &name, &[base.clone(), own]);
                        push(&image, &name, &push_options()).unwrap();
                        if round % 2 == 0 {
                            let gone = name.with_digest(image.digest());
                            client.delete_manifest(&gone).unwrap();
                            push(&image, &name, &push_options()).unwrap();
                        }
                    }
                })
            })
            .collect();
        for push in pushes {
            push.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let target = open_store(&dir.path().join("target"));
    for (thread, round) in (0..4).flat_map(|thread| (0..8).map(move |round| (thread, round))) {
        let name = reference(&collector, &format!("app{thread}:v{round}"));
        pull(&name, &target, &pull_options(), None).unwrap();
    }
}
