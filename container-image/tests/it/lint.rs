//! For each rule a Dockerfile that it finds something in, and one that it does not.

use container_image::build::{Dockerfile, IgnoreRules, LintContext, Rule};

/// What the rules find, as `line: Name`.
fn lint(text: &str) -> Vec<String> {
    let ignore = IgnoreRules::parse(b"secret.txt\n").unwrap();
    let environment = |image: &str| (image == "known:1").then(|| vec!["HOME=/".to_owned()]);
    let context = LintContext {
        ignore: Some(&ignore),
        environment: Some(&environment),
    };
    let file = Dockerfile::parse(text.as_bytes()).unwrap();
    let found = file.lint(&context).unwrap();
    assert!(
        found
            .iter()
            .all(|lint| !lint.message.is_empty() && !lint.rule.advice().is_empty())
    );
    found
        .iter()
        .map(|lint| format!("{}: {}", lint.line, lint.rule.name()))
        .collect()
}

#[test]
fn each_rule_finds_the_bad_and_passes_the_good() {
    for (rule, bad, line, good) in [
        (
            Rule::ConsistentInstructionCasing,
            "FROM a:1\nENV a=1\nrun x",
            3,
            "from a:1\nenv a=1",
        ),
        (
            Rule::CopyIgnoredFile,
            "FROM a:1\nCOPY secret.txt /",
            2,
            "FROM a:1\nCOPY public.txt /",
        ),
        (
            Rule::DuplicateStageName,
            "FROM a:1 AS x\nFROM a:1 AS x",
            2,
            "FROM a:1 AS x\nFROM a:1 AS y",
        ),
        (
            Rule::ExposeInvalidFormat,
            "FROM a:1\nEXPOSE 8080:80",
            2,
            "FROM a:1\nEXPOSE 80 443/udp",
        ),
        (
            Rule::ExposeProtoCasing,
            "FROM a:1\nEXPOSE 80/TcP",
            2,
            "FROM a:1\nEXPOSE 80/tcp",
        ),
        (Rule::FromAsCasing, "FROM a:1 as x", 1, "FROM a:1 AS x"),
        (
            Rule::FromPlatformFlagConstDisallowed,
            "FROM --platform=linux/amd64 a:1",
            1,
            "FROM --platform=$BUILDPLATFORM a:1",
        ),
        (
            Rule::InvalidDefaultArgInFrom,
            "ARG TAG\nFROM a:${TAG}",
            2,
            "ARG TAG=1\nFROM a:${TAG}",
        ),
        (
            Rule::JSONArgsRecommended,
            "FROM a:1\nCMD x y",
            2,
            "FROM a:1\nCMD [\"x\"]",
        ),
        (
            Rule::LegacyKeyValueFormat,
            "FROM a:1\nENV a b",
            2,
            "FROM a:1\nENV a=b",
        ),
        (
            Rule::MaintainerDeprecated,
            "FROM a:1\nMAINTAINER x",
            2,
            "FROM a:1\nLABEL a=b",
        ),
        (
            Rule::MultipleInstructionsDisallowed,
            "FROM a:1\nCMD [\"a\"]\nCMD [\"b\"]",
            2,
            "FROM a:1\nCMD [\"b\"]",
        ),
        (
            Rule::NoEmptyContinuation,
            "FROM a:1\nRUN a \\\n\n b",
            4,
            "FROM a:1\nRUN a \\\n b",
        ),
        (
            Rule::RedundantTargetPlatform,
            "FROM --platform=$TARGETPLATFORM a:1",
            1,
            "FROM a:1",
        ),
        (
            Rule::ReservedStageName,
            "FROM a:1 AS scratch",
            1,
            "FROM a:1 AS base",
        ),
        (
            Rule::SecretsUsedInArgOrEnv,
            "FROM a:1\nENV DB_PASSWORD=x",
            2,
            "FROM a:1\nENV PUBLIC_KEY=x PASSWORD_FILE=y",
        ),
        (
            Rule::StageNameCasing,
            "FROM a:1 AS Base",
            1,
            "FROM a:1 AS base",
        ),
        (
            Rule::UndefinedArgInFrom,
            "FROM a:$TAG",
            1,
            "ARG TAG=1\nFROM a:$TAG",
        ),
        (
            Rule::UndefinedVar,
            "FROM known:1\nWORKDIR /$APP",
            2,
            "FROM known:1\nARG APP=x\nWORKDIR /$APP$HOME",
        ),
        (
            Rule::UndefinedVar,
            "FROM known:1 AS x\nFROM x\nUSER $U",
            3,
            "FROM unknown:1\nUSER $U",
        ),
        (
            Rule::WorkdirRelativePath,
            "FROM a:1\nWORKDIR app",
            2,
            "FROM a:1\nWORKDIR /\nWORKDIR app",
        ),
        (Rule::BaseNotPinned, "FROM debian", 1, "FROM debian:12-slim"),
        (
            Rule::CopyBeforeInstall,
            "FROM a:1\nCOPY . /app\nRUN npm ci",
            2,
            "FROM a:1\nCOPY package.json /app\nRUN npm ci\nCOPY . /app",
        ),
        (
            Rule::HostPathVolume,
            "FROM a:1\nVOLUME /h:/c",
            2,
            "FROM a:1\nVOLUME /c",
        ),
        (
            Rule::LargeBase,
            "FROM ubuntu:24.04",
            1,
            "FROM python:3-slim",
        ),
        (
            Rule::ManyLayers,
            &format!("FROM a:1{}", "\nRUN x".repeat(12)),
            10,
            "FROM a:1\nRUN x && y",
        ),
        (
            Rule::PackageCacheKept,
            "FROM a:1\nRUN apt-get update && apt-get -y install gcc",
            2,
            "FROM a:1\nRUN apt-get install -y gcc && rm -rf /var/lib/apt/lists/*",
        ),
        (
            Rule::PackageCacheKept,
            "FROM a:1\nRUN apk add gcc",
            2,
            "FROM a:1\nRUN --mount=type=cache,target=/var/cache/apk apk add gcc",
        ),
        (
            Rule::SeveralServices,
            "FROM a:1\nCMD [\"sh\", \"-c\", \"sshd & nginx\"]",
            2,
            "FROM a:1\nCMD [\"nginx\"]",
        ),
        (
            Rule::SingleQuotedArray,
            "FROM a:1\nENTRYPOINT ['x']",
            2,
            "FROM a:1\nENTRYPOINT [\"x\"]",
        ),
        (
            Rule::UpgradeInBuild,
            "FROM a:1\nRUN apt-get upgrade -y",
            2,
            "FROM a:1\nRUN apt-get install -y gcc",
        ),
    ] {
        let want = format!("{line}: {}", rule.name());
        assert!(
            lint(bad).contains(&want),
            "{want} in {:?} of\n{bad}",
            lint(bad)
        );
        let found = lint(good);
        assert!(
            !found.iter().any(|lint| lint.ends_with(rule.name())),
            "{found:?} of\n{good}"
        );
    }
}

#[test]
fn rules_are_left_out_on_request() {
    let bad = "FROM debian AS Base\nCMD x";
    assert_eq!(
        lint(bad),
        [
            "1: StageNameCasing",
            "1: BaseNotPinned",
            "2: JSONArgsRecommended"
        ]
    );
    let some = format!("# check=skip=JSONArgsRecommended,StageNameCasing;error=true\n{bad}");
    assert_eq!(lint(&some), ["2: BaseNotPinned"]);
    assert_eq!(lint(&format!("# check=skip=all\n{bad}")), [""; 0]);
}
