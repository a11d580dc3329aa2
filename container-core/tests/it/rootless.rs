//! Containers of a plain user, without any privilege outside of his user namespaces.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output};

use container_core::oci_spec::runtime::{Spec, User};
use container_core::userns::{IdMap, IdRange};
use container_core::{CreateOptions, Error, ExecOptions, Launcher, Stdio};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::bundle::{
    Bundle, edit_linux, edit_process, piped, run, stdout_of, try_run, with_bundle,
};
use crate::support::isolate::Place;
use crate::support::{peers, role};

/// A user that no host has.
const PLAIN: u32 = 4242;

/// Where `Place::dir` of the test is, for its roles.
const PLACE: &str = "CONTAINER_CORE_TEST_PLACE";

/// Files of the host with others in their place, while this lives.
pub(crate) struct Settled<'p> {
    place: &'p Place,
    replaced: Vec<String>,
}

impl<'p> Settled<'p> {
    /// Gives [`PLAIN`] a name, and the subordinate ids of these lines; makes what is to be used his own.
    pub(crate) fn new(place: &'p Place, bundle: &Bundle, subordinate: &str) -> Self {
        fs::set_permissions(place.dir(), fs::Permissions::from_mode(0o755)).expect("prepare");
        for path in ["", "tmp", "root", "etc"].map(|path| bundle.root().join(path)) {
            chown(&path, Some(PLAIN), Some(PLAIN)).expect("prepare");
        }
        let all = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(bundle.root().join("tmp"), all).expect("prepare");
        let replaced = Vec::new();
        let mut settled = Self { place, replaced };
        let passwd = fs::read_to_string("/etc/passwd").expect("prepare");
        let passwd = format!("{passwd}container-test:x:{PLAIN}:{PLAIN}::/:/bin/sh\n");
        settled.replace("/etc/passwd", &passwd);
        settled.give_ids(subordinate);
        settled
    }

    fn give_ids(&mut self, lines: &str) {
        for file in ["/etc/subuid", "/etc/subgid"] {
            self.replace(file, lines);
        }
    }

    fn replace(&mut self, path: &str, content: &str) {
        let other = self.place.dir().join(path.replace('/', "-"));
        fs::write(&other, content).expect("prepare");
        self.cover(path, &other);
    }

    fn cover(&mut self, path: &str, other: &Path) {
        let nothing = None::<&str>;
        mount(Some(other), path, nothing, MsFlags::MS_BIND, nothing).expect("prepare");
        self.replaced.push(path.to_owned());
    }
}

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        for path in self.replaced.drain(..) {
            let _ = umount2(path.as_str(), MntFlags::MNT_DETACH);
        }
    }
}

/// Lets the plain user play `name`; gives what the role says.
pub(crate) fn as_plain_user(place: &Place, name: &str) -> Output {
    let mut command = role::command(name);
    command.env(PLACE, place.dir()).uid(PLAIN).gid(PLAIN);
    let output = command.output().expect("prepare");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    output
}

/// The root file system of the test that started this role; nothing in a process that plays another part.
pub(crate) fn playing(name: &str) -> Option<Bundle> {
    let place = std::env::var_os(PLACE).filter(|_| role::plays(name))?;
    Some(Bundle::existing(&Path::new(&place).join("root")))
}

/// A container with this map that runs `script`.
fn mapped(bundle: &Bundle, map: &IdMap, script: &str) -> Spec {
    let mut spec = bundle.shell(script);
    map.apply(&mut spec);
    edit_linux(&mut spec, |linux| {
        linux.set_cgroups_path(None);
        linux.set_resources(None);
    });
    spec
}

const MAPS: &str = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -G";

#[test]
fn role_several_ids() {
    let Some(bundle) = playing("rootless::role_several_ids") else {
        return;
    };
    let launcher = Launcher::new();
    let map = IdMap::subordinate().expect("there are some");
    let script = format!(
        "{MAPS}; touch /tmp/own /tmp/fifth; chown 5:7 /tmp/fifth; stat -c %u:%g /tmp/fifth
         rm /tmp/fifth && touch /tmp/fifth && chown 5:7 /tmp/fifth
         su web -c 'id -u; touch /tmp/web'
         for type in proc sysfs mqueue devpts tmpfs; do
             grep -q \" - $type \" /proc/self/mountinfo && echo $type; done
         echo x > /dev/null; head -c 1 /dev/zero | wc -c; ls -l /dev/tty > /dev/null && echo tty
         test -c /dev/ptmx && echo ptmx; cat /proc/sys/net/ipv4/ping_group_range"
    );
    role::say(format!(
        "{:?}",
        stdout_of(&launcher, &mapped(&bundle, &map, &script))
    ));
    let kept = map.keep_id(1000, 1000).expect("there are enough");
    let mut spec = mapped(&bundle, &kept, &format!("{MAPS}; touch /tmp/kept"));
    edit_process(&mut spec, |process| {
        let mut user = User::default();
        user.set_uid(1000);
        user.set_gid(1000);
        process.set_user(user);
    });
    role::say(format!("{:?}", stdout_of(&launcher, &spec)));
}

#[test]
fn privileged_plain_user_has_several_ids() {
    with_bundle!(|place, bundle| {
        if peers::find("newuidmap").is_none() {
            return;
        }
        let _settled = Settled::new(
            place,
            bundle,
            "4242:100000:1000\ncontainer-test:300000:65536\n",
        );
        let output = as_plain_user(place, "rootless::role_several_ids");
        let output = String::from_utf8_lossy(&output.stdout);
        let said = role::said(&output);
        let map = r" 0 4242 1\n 1 100000 1000\n 1001 300000 65536\n";
        assert_eq!(
            said[0],
            format!(
                r#""{map}{map}0\n0\n5:7\n1000\nproc\nsysfs\nmqueue\ndevpts\ntmpfs\n1\ntty\nptmx\n0\t66536""#
            ),
        );
        let map = r" 0 100000 1000\n 1000 4242 1\n 1001 300000 65536\n";
        assert_eq!(said[1], format!(r#""{map}{map}1000\n1000""#));
        let owner = |name: &str| {
            let metadata = fs::metadata(bundle.root().join("tmp").join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("own"), (PLAIN, PLAIN));
        assert_eq!(owner("fifth"), (100_004, 100_006));
        assert_eq!(owner("web"), (100_999, 100_999));
        assert_eq!(owner("kept"), (PLAIN, PLAIN));
    });
}

#[test]
fn role_lacks() {
    let Some(bundle) = playing("rootless::role_lacks") else {
        return;
    };
    let tell = |error: Option<Error>| {
        let error = error.expect("it must fail");
        role::say(format!("{}|{}", error.code(), error.report()));
    };
    let run = |map: &IdMap| try_run(&Launcher::new(), &mapped(&bundle, map, "true"), piped()).err();
    tell(IdMap::subordinate().err());
    let mut others = IdMap::single();
    others.users.push(IdRange {
        inside: 1,
        outside: 1,
        count: 10,
    });
    tell(run(&others));
    let mut somebody = IdMap::single();
    somebody.users[0].outside = 0;
    tell(run(&somebody));
    // One id needs nothing, and forks work on.
    assert!(run(&IdMap::single()).is_none());
}

#[test]
fn privileged_what_maps_lack_is_named() {
    with_bundle!(|place, bundle| {
        let mut settled = Settled::new(place, bundle, "nobody:100000:65536\n");
        let said = |output: &Output| -> Vec<(String, String)> {
            role::said(&String::from_utf8_lossy(&output.stdout))
                .into_iter()
                .map(|line| {
                    let (code, report) = line.split_once('|').expect("two parts");
                    (code.to_owned(), report.to_owned())
                })
                .collect()
        };
        let errors = said(&as_plain_user(place, "rootless::role_lacks"));
        assert_eq!(errors[0].0, "NoSubordinateIds");
        assert!(
            errors[0].1.contains("/etc/subuid") && errors[0].1.contains("container-test:100000"),
            "{errors:?}"
        );
        for (code, report) in &errors[1..] {
            if peers::find("newuidmap").is_some() {
                assert_eq!(code, "NoSubordinateIds", "{report}");
            }
        }
        settled.give_ids("container-test:200000:5\n");
        if peers::find("newuidmap").is_some() {
            let errors = said(&as_plain_user(place, "rootless::role_several_ranges"));
            assert_eq!(errors[0].0, "NotYourIds", "{errors:?}");
            settled.cover("/usr/bin/newgidmap", Path::new("/dev/null"));
            let errors = said(&as_plain_user(place, "rootless::role_several_ranges"));
            assert_eq!(errors[1].0, "NoIdMapProgram", "{errors:?}");
            assert!(errors[1].1.contains("newgidmap"), "{errors:?}");
        }
    });
}

#[test]
fn role_several_ranges() {
    let Some(bundle) = playing("rootless::role_several_ranges") else {
        return;
    };
    let run = |map: &IdMap| try_run(&Launcher::new(), &mapped(&bundle, map, "true"), piped()).err();
    let tell = |error: Option<Error>| match error {
        Some(error) => role::say(format!("{}|{}", error.code(), error.report())),
        None => role::say("none|none"),
    };
    let map = IdMap::subordinate().expect("there are some");
    let mut more = map.clone();
    more.users[1].count += 1;
    tell(run(&more));
    tell(run(&map));
}

/// What a container shows of itself, for a comparison with that of other runtimes.
const SHOW: &str = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; id -G
    grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status; hostname
    awk '{ for (i = 6; $i != \"-\"; i++); print $5, $(i + 1) }' /proc/self/mountinfo |
        grep -vE '^/(proc/|sys/fs)' | sort; ls /dev | sort";

#[test]
fn role_beside_others() {
    let Some(bundle) = playing("rootless::role_beside_others") else {
        return;
    };
    let map = IdMap::subordinate().expect("there are some");
    let spec = mapped(&bundle, &map, SHOW);
    let ours = run(&Launcher::new(), &spec);
    let dir = bundle.root().parent().expect("it is below").join("user");
    let spec = serde_json::to_string(&spec).expect("encode");
    fs::write(dir.join("config.json"), spec).expect("write");
    // crun refuses a plain user hybrid groups.
    let runc = peers::find("runc").expect("looked for before");
    let theirs = Command::new(runc)
        .arg("--root")
        .arg(dir.join("runc"))
        .args(["run", "--bundle"])
        .arg(&dir)
        .arg(format!("container-core-test-{}", std::process::id()))
        .env("XDG_RUNTIME_DIR", &dir)
        .output()
        .expect("run");
    assert!(theirs.status.success(), "{theirs:?}");
    assert_eq!(ours.stdout, String::from_utf8_lossy(&theirs.stdout));
}

#[test]
fn privileged_plain_users_container_is_as_under_runc() {
    with_bundle!(|place, bundle| {
        if peers::find("newuidmap").and(peers::find("runc")).is_none() {
            return;
        }
        let _settled = Settled::new(place, bundle, "container-test:100000:65536\n");
        let dir = place.dir().join("user");
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(PLAIN), Some(PLAIN)).unwrap();
        as_plain_user(place, "rootless::role_beside_others");
    });
}

#[test]
fn role_exec() {
    let Some(bundle) = playing("rootless::role_exec") else {
        return;
    };
    let launcher = Launcher::new();
    for map in [IdMap::single(), IdMap::subordinate().expect("some")] {
        for init in [false, true] {
            let spec = mapped(&bundle, &map, "sleep 600");
            let mut options = CreateOptions::default();
            options.init = init;
            let container = launcher.create(&spec, options).expect("create");
            container.start().expect("start");
            let mut process = spec.process().clone().expect("a process");
            process.set_args(Some(vec!["id".into(), "-u".into()]));
            let mut options = ExecOptions::default();
            options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Null];
            let mut process = launcher.exec(&container, &process, options).expect("exec");
            let stdout = process.take_stdout().expect("piped");
            let said = std::io::read_to_string(stdout).expect("read");
            assert_eq!(said, "0\n", "init: {init}");
            assert!(process.wait().expect("wait").success());
        }
    }
}

#[test]
fn privileged_plain_user_executes_in_a_container_with_an_init() {
    with_bundle!(|place, bundle| {
        if peers::find("newuidmap").is_none() {
            return;
        }
        let _settled = Settled::new(place, bundle, "container-test:100000:65536\n");
        as_plain_user(place, "rootless::role_exec");
    });
}
