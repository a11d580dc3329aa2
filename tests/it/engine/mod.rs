//! The engine from end to end, on real kernels, registries and images.

mod crash;
mod faults;
mod limits;
mod network;
mod run;

use std::path::Path;

use container_engine::container_image::server::{Server, ServerOptions};
use container_engine::container_image::{PushOptions, Store, push};
use container_engine::{Engine, Image};

use crate::support::fixtures::busybox_layout;
use crate::support::isolate::Place;

/// An engine with a busybox image that came from a registry in this process.
pub(crate) struct Ground {
    pub(crate) engine: Engine,
    pub(crate) server: Server,
    pub(crate) image: Image,
    pub(crate) name: String,
}

/// `None` where there is no busybox.
pub(crate) fn ground(place: &Place) -> Option<Ground> {
    let (server, name) = serve_busybox(place.dir())?;
    let engine = open(place);
    let image = engine.images().pull(&name).expect("pull");
    Some(Ground {
        engine,
        server,
        image,
        name,
    })
}

/// A registry in this process that has a busybox image of this name.
pub(crate) fn serve_busybox(dir: &Path) -> Option<(Server, String)> {
    let layout = busybox_layout(&dir.join("layout"))?;
    let server = Server::start(ServerOptions::default()).expect("serve");
    let name = format!("{}/busybox:latest", server.address());
    let store = Store::open(layout).expect("open the layout");
    let stored = store.images().expect("list the layout").remove(0);
    let image = store.image(&stored).expect("open the image");
    push(&image, &name.parse().expect("a name"), &PushOptions::default()).expect("push");
    Some((server, name))
}

/// The engine of this test.
pub(crate) fn open(place: &Place) -> Engine {
    Engine::builder()
        .root(place.dir().join("root"))
        .run(place.dir().join("run"))
        .cgroup_parent(place.cgroup())
        .open()
        .expect("open the engine")
}

/// What a container wrote, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
