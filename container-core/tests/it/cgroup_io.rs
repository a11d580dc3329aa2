//! Block devices: weights and limits that hold, on loop devices of the tests' own.

#![expect(clippy::unwrap_used, reason = "tests fail by panics")]

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

use container_core::ErrorKind;
use container_core::cgroup::{BlockDevice, Cgroup, Controller};

use crate::support::block::Loop;
use crate::support::group::{create, name, privileged, resources};
use crate::support::skip;

fn has_block_io() -> bool {
    let there = privileged() && Controller::BlockIo.version().is_ok();
    if !there {
        skip("no controller of block devices");
    }
    there
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn privileged_a_device_gives_no_more_bytes_or_requests_than_allowed() {
    if !has_block_io() {
        return;
    }
    let Some(device) = Loop::new(32 << 20) else {
        return;
    };
    let mib = 1 << 20;
    // A limit is kept over time: what takes no longer than this was not limited.
    for (limit, rate, script) in [
        ("throttleWriteBpsDevice", mib, device.write(65536, 32, 0)),
        ("throttleReadBpsDevice", mib, device.read(65536, 32)),
        ("throttleWriteIOPSDevice", 10, device.write(4096, 20, 0)),
        ("throttleReadIOPSDevice", 10, device.read(4096, 20)),
    ] {
        let json = format!(
            r#"{{"blockIO":{{"{limit}":[{{{},"rate":{rate}}}]}}}}"#,
            device.numbers()
        );
        let group = create(limit, &json);
        let start = Instant::now();
        finish(group.shell(&script));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(1700), "{limit}: {took:?}");
        let stats = group.0.stats().unwrap().io;
        let io = stats
            .get(&device.id().to_string())
            .copied()
            .unwrap_or_else(|| panic!("{limit}: {stats:?}"));
        let (bytes, requests) = match limit.contains("Write") {
            true => (io.written_bytes, io.writes),
            false => (io.read_bytes, io.reads),
        };
        let want = if rate == mib {
            (2 << 20, 1..=32)
        } else {
            (20 * 4096, 20..=20)
        };
        assert!(
            bytes == want.0 && want.1.contains(&requests),
            "{limit}: {io:?}"
        );
        // Without the limit it is as fast as it is.
        let json = json.replace(&format!(r#""rate":{rate}"#), r#""rate":1000000000"#);
        group.0.update(&resources(&json)).unwrap();
        finish(group.shell(&script));
    }
}

#[test]
fn privileged_what_is_no_device_is_refused() {
    if !has_block_io() {
        return;
    }
    let json = r#"{"blockIO":{"throttleReadBpsDevice":[{"major":511,"minor":7,"rate":1048576}]}}"#;
    for (path, code) in [
        ("/dev/null", "NotABlockDevice"),
        ("/dev", "NotABlockDevice"),
        ("/dev/nosuch", "Os"),
    ] {
        assert_eq!(BlockDevice::at(path).unwrap_err().code(), code, "{path}");
    }
    let path = name("nodev");
    let error = Cgroup::create(&path, &resources(json)).unwrap_err();
    assert!(error.report().contains("511:7 "), "{}", error.report());
    assert_eq!(Cgroup::open(&path).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn privileged_a_device_has_a_weight_of_its_own() {
    if !has_block_io() {
        return;
    }
    let Some(device) = Loop::new(1 << 20) else {
        return;
    };
    if fs::write(device.attribute("queue/scheduler"), "bfq").is_err() {
        return skip("the scheduler BFQ, which weighs groups, is not there");
    }
    let json = format!(
        r#"{{"blockIO":{{"weight":500,"weightDevice":[{{{},"weight":1000}}]}}}}"#,
        device.numbers()
    );
    let group = create("devweight", &json);
    let v1 = group
        .directory("blkio")
        .map(|path| path.join("blkio.bfq.weight_device"));
    let file = v1.unwrap_or_else(|| group.directory("io").unwrap().join("io.bfq.weight"));
    let text = fs::read_to_string(file).unwrap();
    assert!(
        text.lines()
            .any(|line| line == format!("{} 200", device.id())),
        "{text}"
    );
    let json = r#"{"blockIO":{"leafWeight":500}}"#;
    let error = Cgroup::create(&name("leaf"), &resources(json)).unwrap_err();
    assert_eq!(
        (error.kind(), error.code()),
        (ErrorKind::Unsupported, "ControllerUnavailable")
    );
}
