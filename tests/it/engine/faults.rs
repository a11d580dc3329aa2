//! Everything that goes wrong is a typed error, and leaves nothing behind.

use container_engine::ErrorKind;

use super::ground;
use crate::support::isolate::isolated;

#[test]
fn privileged_a_missing_command_is_named() {
    isolated(|place| {
        let Some(ground) = ground(place) else { return };
        let containers = ground.engine.containers();
        let run = |command: &str| containers.run(&ground.image).network("none").cmd([command]).status();
        let missing = run("no-such-program").expect_err("there is none");
        assert_eq!((missing.kind(), missing.code()), (ErrorKind::NotFound, "CommandNotFound"));
        assert!(missing.report().contains("no-such-program"), "{}", missing.report());
        let denied = run("/etc/passwd").expect_err("it is no program");
        assert_eq!(denied.code(), "CommandNotExecutable");
    });
}
