//! Bundles that other runtimes write.

use std::fs;
use std::process::Command;

use container_core::oci_spec::runtime::Spec;
use container_core::{CreateOptions, Launcher, Stdio};
use serde_json::json;

use crate::attributes::{PROBE, edit};
use crate::support::bundle::{try_run, with_bundle};
use crate::support::peers;
use crate::support::runtime::Peer;

#[test]
fn privileged_bundles_of_other_runtimes_run_as_there() {
    with_bundle!(|place, bundle| {
        for writer in ["runc", "crun"] {
            let Some(program) = peers::find(writer) else {
                continue;
            };
            let dir = place.dir().join(writer);
            fs::create_dir(&dir).unwrap();
            let written = Command::new(program).arg("spec").current_dir(&dir).status();
            assert!(written.unwrap().success(), "{writer}");
            // What `spec` leaves to its user: a command without a terminal, and a root.
            let spec = Spec::load(dir.join("config.json")).unwrap();
            let spec = edit(&spec, |spec| {
                spec["process"]["terminal"] = json!(false);
                spec["process"]["args"] = json!(["/bin/sh", "-c", PROBE]);
                spec["process"]["env"] = json!(["PATH=/bin", "HOME=/root", "PWD=/"]);
                spec["root"]["path"] = json!(bundle.root());
            });
            let mut options = CreateOptions::default();
            options.stdio = [Stdio::Null, Stdio::Piped, Stdio::Piped];
            options.bundle = dir.clone();
            let ours = try_run(&Launcher::new(), &spec, options).unwrap();
            assert!(ours.status.success(), "{writer}: {ours:?}");
            for runner in ["runc", "crun"] {
                let Some(peer) = Peer::find(place, runner) else {
                    continue;
                };
                let theirs = peer.run(&spec, writer);
                let text = String::from_utf8_lossy(&theirs.stdout);
                assert_eq!(ours.stdout, text, "{writer}'s by {runner}: {theirs:?}");
            }
        }
    });
}
