//! Readiness messages (`sd_notify(3)`) of a container, passed on to whoever waits for this program's.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use container_engine::container_core::oci_spec::runtime::{Mount, Spec};

use crate::descriptors::add_environment;

/// Where the socket is inside of the container.
const INSIDE: &str = "/run/notify";
const SOCKET: &str = "notify.sock";

/// How often to look whether the container still lives.
const INTERVAL: Duration = Duration::from_millis(100);

/// A socket in a directory that is mounted into the container.
pub(crate) struct Notify {
    directory: PathBuf,
    host: PathBuf,
}

impl Notify {
    /// Gives the container a place for the socket, if `NOTIFY_SOCKET` asks for one.
    pub(crate) fn prepare(root: &Path, id: &str, spec: &mut Spec) -> anyhow::Result<Option<Self>> {
        let Some(notify) = Self::of(root, id) else {
            return Ok(None);
        };
        let mut mount = Mount::default();
        mount.set_destination(INSIDE.into());
        mount.set_typ(Some("bind".to_owned()));
        mount.set_source(Some(notify.directory.clone()));
        let options = ["bind", "nosuid", "noexec", "nodev", "ro"];
        mount.set_options(Some(options.map(str::to_owned).into()));
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        mounts.push(mount);
        spec.set_mounts(Some(mounts));
        add_environment(spec, [format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}")]);
        let directory = &notify.directory;
        fs::create_dir_all(directory).with_context(|| format!("make {directory:?}"))?;
        Ok(Some(notify))
    }

    /// The one of a container that exists already.
    pub(crate) fn of(root: &Path, id: &str) -> Option<Self> {
        let host = std::env::var_os("NOTIFY_SOCKET").filter(|host| !host.is_empty())?;
        let valid = !id.contains('/') && !id.starts_with('.');
        // Not a name that a container can have.
        let directory = root.join("~notify").join(id);
        valid.then_some(Self {
            directory,
            host: host.into(),
        })
    }
}

impl Notify {
    /// Listens; to be done before the program runs.
    pub(crate) fn listen(self) -> anyhow::Result<Listening> {
        let path = self.directory.join(SOCKET);
        let bind = || {
            let socket = UnixDatagram::bind(&path)?;
            // Whoever the program runs as may say that it is ready.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
            socket.set_read_timeout(Some(INTERVAL))?;
            io::Result::Ok(socket)
        };
        let socket = bind().with_context(|| format!("listen at {path:?}"))?;
        Ok(Listening {
            socket,
            notify: self,
        })
    }

    /// Removes the place for the socket.
    pub(crate) fn remove(&self) {
        // Nothing is lost if it stays: the next container of that name uses it.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A socket that a container says there that it is ready.
pub(crate) struct Listening {
    socket: UnixDatagram,
    notify: Notify,
}

impl Listening {
    /// Passes the word on when it comes, with the number of the container's first process; blocks until
    /// then, or until that process has ended.
    pub(crate) fn forward(self, pid: i32) -> anyhow::Result<()> {
        let host = &self.notify.host;
        let outside = UnixDatagram::unbound().context("make a socket")?;
        outside
            .connect(host)
            .with_context(|| format!("connect to {host:?}"))?;
        let mut message = [0; 4096];
        while Path::new("/proc").join(pid.to_string()).exists() {
            let Ok(count) = self.socket.recv(&mut message) else {
                continue;
            };
            let mut lines = message[..count].split(|byte| *byte == b'\n');
            if let Some(ready) = lines.find(|line| line.starts_with(b"READY=")) {
                outside
                    .send(ready)
                    .context("pass on that the container is ready")?;
                let main = format!("MAINPID={pid}");
                outside
                    .send(main.as_bytes())
                    .context("pass on who is ready")?;
                break;
            }
        }
        self.notify.remove();
        Ok(())
    }
}
