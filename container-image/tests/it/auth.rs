//! Who may: passwords, tokens, and the files and helpers that keep them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use container_image::server::{Server, ServerOptions};
use container_image::{
    AuthFile, Client, ClientOptions, Credentials, Digest, ErrorKind, Index, Reference, pull, push,
};
use serde_json::{Value, json};

use crate::fixture::*;
use crate::http::*;
use crate::programs::*;

/// A registry with nothing but an index, for whoever has the last token that its token server gave to
/// `user` with `password`, or to the bearer of the identity token `refresh`.
struct TokenRegistry {
    server: HttpServer,
    /// How many tokens were given; the last one is `token-N`.
    given: Arc<AtomicUsize>,
}

impl TokenRegistry {
    fn start(realm_host: &'static str) -> Self {
        let given = Arc::new(AtomicUsize::new(0));
        let address = Arc::new(Mutex::new(String::new()));
        let server = HttpServer::start({
            let (given, address) = (given.clone(), address.clone());
            move |request| {
                let last = format!("Bearer token-{}", given.load(Ordering::SeqCst));
                if request.target.starts_with("/token") {
                    // `user:password` in Base64.
                    let by_password =
                        request.header("authorization") == Some("Basic dXNlcjpwYXNzd29yZA==");
                    let by_token = request.body.contains("refresh_token=refresh&")
                        && request.body.contains("grant_type=refresh_token");
                    if !by_password && !by_token {
                        return (401, vec![], b"no".to_vec());
                    }
                    let number = given.fetch_add(1, Ordering::SeqCst) + 1;
                    let mut token = json!({"access_token": format!("token-{number}")});
                    if request.target.contains("offline_token=true") {
                        token["refresh_token"] = "refresh".into();
                    }
                    return (200, vec![], token.to_string().into_bytes());
                }
                if request.header("authorization") == Some(&last) {
                    let headers = vec![(
                        "Content-Type".into(),
                        "application/vnd.oci.image.index.v1+json".into(),
                    )];
                    return (200, headers, index().raw().to_vec());
                }
                let port = address.lock().unwrap().clone();
                let challenge = format!(
                    "Bearer realm=\"http://{realm_host}:{port}/token\",service=\"the service\",\
                     scope=\"repository:team/app:pull\""
                );
                (401, vec![("WWW-Authenticate".into(), challenge)], vec![])
            }
        });
        *address.lock().unwrap() = server.address.port().to_string();
        Self { server, given }
    }

    fn name(&self) -> String {
        self.server.address.to_string()
    }

    fn fetch(&self, client: &Client) -> Result<Digest, container_image::Error> {
        let reference: Reference = format!("{}/team/app", self.name()).parse().unwrap();
        client
            .manifest(&reference)
            .map(|found| found.descriptor().digest)
    }

    fn token_requests(&self) -> Vec<Request> {
        let log = self.server.log();
        log.into_iter()
            .filter(|r| r.target.starts_with("/token"))
            .collect()
    }
}

fn index() -> Index {
    Index::new(Vec::new()).unwrap()
}

fn with_password(registry: &str, password: &str) -> ClientOptions {
    let mut options = impatient();
    let credentials = Credentials::new("user", password);
    options.credentials.insert(registry.to_owned(), credentials);
    options
}

#[test]
fn a_token_serves_until_the_registry_wants_another() {
    let registry = TokenRegistry::start("127.0.0.1");
    let client = Client::new(with_password(&registry.name(), "password"));
    for _ in 0..3 {
        assert_eq!(registry.fetch(&client).unwrap(), index().digest());
    }
    let asked = registry.token_requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].target,
        "/token?service=the%20service&account=user&scope=repository:team/app:pull"
    );
    // The registry forgets the token.
    registry.given.fetch_add(1, Ordering::SeqCst);
    registry.fetch(&client).unwrap();
    assert_eq!(registry.token_requests().len(), 2);

    let error = registry
        .fetch(&Client::new(with_password(&registry.name(), "wrong-one")))
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unauthorized, "Unauthorized")
    );
    assert!(!error.report().contains("wrong-one"), "{}", error.report());
}

#[test]
fn credentials_go_to_another_host_only_if_that_is_named() {
    // The same machine under another name.
    let registry = TokenRegistry::start("localhost");
    let mut options = with_password(&registry.name(), "password");
    let error = registry.fetch(&Client::new(options.clone())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.report().contains("credentials are not for localhost"),
        "{}",
        error.report()
    );
    assert!(
        registry
            .token_requests()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
    options
        .token_servers
        .insert(registry.name(), "localhost".into());
    registry.fetch(&Client::new(options)).unwrap();
}

#[test]
fn an_identity_token_takes_the_place_of_the_password() {
    let registry = TokenRegistry::start("127.0.0.1");
    let dir = temp_dir();
    let path = dir.path().join("new/config.json");
    let file = AuthFile::new(&path);
    let user = Credentials::new("user", "password");
    file.login(&registry.name(), &user, &impatient()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    // `user:`, without the password.
    let kept = json!({"auth": "dXNlcjo=", "identitytoken": "refresh"});
    assert_eq!(config, json!({"auths": {registry.name(): kept}}));

    let mut options = impatient();
    options.auth_file = Some(file);
    registry.fetch(&Client::new(options)).unwrap();
    let last = registry.token_requests().pop().unwrap();
    assert_eq!(last.method, "POST");
    assert_eq!(last.header("authorization"), None);
    assert!(last.body.contains("service=the%20service"), "{}", last.body);
    assert!(
        last.body.contains("scope=repository:team/app:pull"),
        "{}",
        last.body
    );
}

#[test]
fn an_endless_token_stops_at_the_bound() {
    let tokens = HttpServer::start(|_| (200, vec![], vec![b' '; 2 << 20]));
    let address = tokens.address;
    let registry = HttpServer::start(move |_| {
        let challenge = format!("Bearer realm=\"http://{address}/token\"");
        (401, vec![("WWW-Authenticate".into(), challenge)], vec![])
    });
    let error = Client::new(impatient())
        .ping(&registry.address.to_string())
        .unwrap_err();
    assert_eq!(error.code(), "DocumentTooLarge", "{error:?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Logs in, pulls and pushes, logs out; a wrong password leaves nothing behind.
fn log_in_and_out(registry: &str, user: &str, password: &str) {
    let dir = temp_dir();
    let path = dir.path().join("docker/config.json");
    let file = AuthFile::new(&path);
    let wrong = Credentials::new(user, "not-the-password");
    let error = file.login(registry, &wrong, &impatient()).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unauthorized, "Unauthorized")
    );
    assert!(!error.report().contains("not-the-password"));
    assert!(!path.exists() && !path.parent().unwrap().exists());

    fs::create_dir(path.parent().unwrap()).unwrap();
    let before = json!({"credHelpers": {"other.example.com": "other"}, "psFormat": "x"});
    fs::write(&path, before.to_string()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    file.login(registry, &Credentials::new(user, password), &impatient())
        .unwrap();
    assert_eq!(mode(&path), 0o600);
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        (&config["credHelpers"], &config["psFormat"]),
        (&before["credHelpers"], &before["psFormat"])
    );
    assert_eq!(
        file.credentials(registry).unwrap(),
        Some(Credentials::new(user, password))
    );

    let reference: Reference = format!("{registry}/team/private:v1").parse().unwrap();
    let store = open_store(&dir.path().join("store"));
    let image = make_image(&store, &reference, &[tar_of(&[("a", b"1")])]);
    let mut options = push_options();
    options.client.auth_file = Some(file.clone());
    push(&image, &reference, &options).unwrap();
    let mut options = pull_options();
    options.client.auth_file = Some(file.clone());
    let target = open_store(&dir.path().join("target"));
    pull(&reference, &target, &options, None).unwrap();

    file.logout(registry).unwrap();
    file.logout(registry).unwrap();
    assert_eq!(file.credentials(registry).unwrap(), None);
    let config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["auths"], json!({}));
    let error = pull(&reference, &target, &options, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
}

#[test]
fn a_login_is_kept_if_the_registry_takes_it() {
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(Credentials::new("user", "pass:word")));
    let server = Server::start(options).unwrap();
    log_in_and_out(&server.address().to_string(), "user", "pass:word");
}

#[test]
fn a_login_at_docker_registry_with_htpasswd_works() {
    if !has("docker-registry") || !has_with("htpasswd", "-h") {
        return;
    }
    let dir = temp_dir();
    let passwords = dir.path().join("htpasswd");
    run(Command::new("htpasswd")
        .args(["-Bbc"])
        .arg(&passwords)
        .args(["user", "secret"]));
    let more = format!(
        "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
        passwords.display()
    );
    let registry = DockerRegistry::start(dir.path(), &more);
    log_in_and_out(&registry.address, "user", "secret");
}

#[test]
fn skopeo_and_this_crate_read_the_logins_of_each_other() {
    if !has("skopeo") {
        return;
    }
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(Credentials::new("user", "secret")));
    let server = Server::start(options).unwrap();
    let registry = server.address().to_string();
    let dir = temp_dir();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let user = Credentials::new("user", "secret");
    AuthFile::new(&ours)
        .login(&registry, &user, &impatient())
        .unwrap();
    let mut login = Command::new("skopeo");
    login.args([
        "login",
        "--tls-verify=false",
        "--username=user",
        "--password=secret",
    ]);
    run(login.arg("--authfile").arg(&theirs).arg(&registry));
    let found = AuthFile::new(&theirs).credentials(&registry).unwrap();
    assert_eq!(found, Some(user));

    let reference: Reference = format!("{registry}/app:v1").parse().unwrap();
    let store = open_store(&dir.path().join("store"));
    let image = make_image(&store, &reference, &[tar_of(&[("a", b"1")])]);
    let mut options = push_options();
    options.client.auth_file = Some(AuthFile::new(&theirs));
    push(&image, &reference, &options).unwrap();
    let mut inspect = skopeo(dir.path());
    inspect.args(["inspect", "--raw", "--tls-verify=false", "--authfile"]);
    let raw = run(inspect.arg(&ours).arg(format!("docker://{reference}")));
    assert_eq!(raw.as_bytes(), image.manifest().raw());
}

/// A credential helper that keeps what it is given in files beside it.
fn helper(folder: &Path, name: &str) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let script = r#"#!/bin/sh
cd "${0%/*}" || exit 1
case $1 in
store) cat >stored ;;
get) read -r server; echo "$server" >asked
     if [ -e stored ]; then cat stored; else echo 'credentials not found in native keychain'; exit 1; fi ;;
erase) rm -f stored ;;
esac
"#;
    program(&folder.join(format!("docker-credential-{name}")), script);
    folder.to_owned()
}

/// Makes a program. Another one writes it: a fork of this one could still have it open when it is run.
fn program(path: &Path, script: &str) {
    let write = "printf %s \"$2\" >\"$1\" && chmod 755 \"$1\"";
    run(Command::new("sh")
        .args(["-c", write, "-"])
        .arg(path)
        .arg(script));
}

#[test]
fn helpers_keep_what_the_file_does_not() {
    for (config, key) in [
        (json!({"credsStore": "test"}), "credsStore"),
        (Value::Null, "credHelpers"),
    ] {
        let mut options = ServerOptions::default();
        options.authenticator = Some(Arc::new(Credentials::new("user", "secret")));
        let server = Server::start(options).unwrap();
        let registry = server.address().to_string();
        let config = if config.is_null() {
            json!({"credHelpers": {registry.clone(): "test"}, "credsStore": "missing"})
        } else {
            config
        };
        let dir = temp_dir();
        let path = dir.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        let folder = helper(&dir.path().join("bin"), "test");
        let file = AuthFile::new(&path).with_helpers(vec!["relative".into(), folder.clone()]);
        assert_eq!(file.credentials(&registry).unwrap(), None, "{key}");
        let user = Credentials::new("user", "secret");
        file.login(&registry, &user, &impatient()).unwrap();
        assert!(
            !fs::read_to_string(&path)
                .unwrap()
                .contains("dXNlcjpzZWNyZXQ")
        );
        let stored: Value =
            serde_json::from_slice(&fs::read(folder.join("stored")).unwrap()).unwrap();
        let expected = json!({"ServerURL": registry, "Username": "user", "Secret": "secret"});
        assert_eq!(stored, expected);
        assert_eq!(file.credentials(&registry).unwrap(), Some(user));
        assert_eq!(
            fs::read_to_string(folder.join("asked")).unwrap().trim(),
            registry
        );
        let mut options = impatient();
        options.auth_file = Some(file.clone());
        Client::new(options).ping(&registry).unwrap();
        file.logout(&registry).unwrap();
        assert!(!folder.join("stored").exists());
    }
}

#[test]
fn docker_hub_is_known_to_helpers_and_files_by_its_old_name() {
    let dir = temp_dir();
    let path = dir.path().join("config.json");
    let folder = helper(dir.path(), "hub");
    let config = json!({"credHelpers": {"docker.io": "hub"}});
    fs::write(&path, config.to_string()).unwrap();
    let file = AuthFile::new(&path).with_helpers(vec![folder.clone()]);
    assert_eq!(file.credentials("docker.io").unwrap(), None);
    let asked = fs::read_to_string(folder.join("asked")).unwrap();
    assert_eq!(asked.trim(), "https://index.docker.io/v1/");
    let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNz"}}});
    fs::write(&path, config.to_string()).unwrap();
    let found = file.credentials("docker.io").unwrap();
    assert_eq!(found, Some(Credentials::new("user", "pass")));
}

#[test]
fn helpers_that_are_none_or_misbehave_are_errors() {
    let dir = temp_dir();
    let path = dir.path().join("config.json");
    let folder = dir.path().join("bin");
    fs::create_dir(&folder).unwrap();
    let file = AuthFile::new(&path).with_helpers(vec![folder.clone()]);
    let ask = |name: &str| {
        fs::write(&path, json!({"credsStore": name}).to_string()).unwrap();
        file.credentials("example.com").unwrap_err()
    };
    for name in ["../../bin/sh", "a/b", "a b", "\0", "$(id)"] {
        assert_eq!(ask(name).code(), "InvalidHelper", "{name:?}");
    }
    assert_eq!(ask("missing").code(), "NoHelper");
    for (name, script) in [
        ("fails", "#!/bin/sh\necho no luck; exit 3\n"),
        ("garbage", "#!/bin/sh\necho '{'\n"),
        ("endless", "#!/bin/sh\nexec cat /dev/zero\n"),
    ] {
        program(&folder.join(format!("docker-credential-{name}")), script);
        let error = ask(name);
        assert_eq!(error.code(), "HelperFailed", "{name}: {error:?}");
    }

    let script = format!(
        "#!/bin/sh\necho $$ >{}/pid\nexec sleep 1000\n",
        dir.path().display()
    );
    program(&folder.join("docker-credential-hangs"), &script);
    fs::write(&path, json!({"credsStore": "hangs"}).to_string()).unwrap();
    let mut options = ServerOptions::default();
    options.authenticator = Some(Arc::new(Credentials::new("user", "secret")));
    let server = Server::start(options).unwrap();
    let mut options = impatient();
    options.auth_file = Some(file);
    let cancel = options.cancel.clone();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| Client::new(options).ping(&server.address().to_string()));
        let pid = dir.path().join("pid");
        while !fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n')) {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.store(true, Ordering::Relaxed);
        let error = asking.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
        // It is not left behind.
        let pid = fs::read_to_string(&pid).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    });
}

#[test]
fn broken_files_are_errors_and_links_are_kept() {
    let dir = temp_dir();
    let path = dir.path().join("config.json");
    let file = AuthFile::new(&path);
    for (text, code) in [
        ("{", "InvalidJson"),
        (r#"{"auths":{},"auths":{}}"#, "InvalidJson"),
        (r#"{"auths":{"example.com":{"auth":"%%%"}}}"#, "InvalidAuth"),
        (
            r#"{"auths":{"example.com":{"auth":"YQ=="}}}"#,
            "InvalidAuth",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let error = file.credentials("example.com").unwrap_err();
        assert_eq!(error.code(), code, "{text}");
        assert!(error.report().contains("config.json"), "{}", error.report());
    }
    let server = serve();
    fs::write(&path, "{}").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let user = Credentials::new("user", "secret");
    AuthFile::new(&link)
        .login(&server.address().to_string(), &user, &impatient())
        .unwrap();
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&path).unwrap().contains("auths"));
    assert_eq!(mode(&path), 0o600);
}
