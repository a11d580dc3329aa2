//! Dockerfiles against what other implementations make of them, if `CONFORMANCE_DIR` has their cases.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::path::PathBuf;

use container_image::ErrorKind;
use container_image::build::{
    Argument, CommandLine, Copy, Dockerfile, Heredoc, IgnoreRules, InlineFile, Instruction,
    Network, Pair, Stages, SyntaxError, Variables,
};
use serde_json::{Value, json};

fn cases(folder: &str) -> Option<PathBuf> {
    let Some(directory) = std::env::var_os("CONFORMANCE_DIR") else {
        println!("skipped: CONFORMANCE_DIR is not set");
        return None;
    };
    Some(PathBuf::from(directory).join(folder))
}

/// What is wrong with a text, in the words of the parser.
fn complaint(error: &container_image::Error) -> (usize, String) {
    let source = std::error::Error::source(error).expect("a source");
    let syntax: &SyntaxError = source.downcast_ref().expect("a syntax error");
    (syntax.line(), syntax.to_string())
}

#[test]
fn golden_dockerfiles_parse_as_buildkit_does() {
    let Some(folder) = cases("dockerfile-golden") else {
        return;
    };
    let file = fs::File::open(folder.join("golden.jsonl.gz")).unwrap();
    let mut lines = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut lines)
        .unwrap();
    let mut wrong = Vec::new();
    for line in lines.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Err(why) = check_golden(&case) {
            wrong.push(format!("{}: {why}\n{}", case["id"], case["dockerfile"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        lines.lines().count(),
        wrong.join("\n")
    );
}

fn same(what: &str, got: Value, want: &Value) -> Result<(), String> {
    let got = normal(got);
    let want = normal(want.clone());
    match got == want {
        true => Ok(()),
        false => Err(format!("{what}:\n got {got}\nwant {want}")),
    }
}

/// Without what says nothing: null, false, empty, zero.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let says = |value: &Value| {
                !matches!(value, Value::Null | Value::Bool(false))
                    && *value != json!([])
                    && *value != json!("")
                    && *value != json!(0)
                    && *value != json!({})
            };
            let entries = map.into_iter().map(|(key, value)| (key, normal(value)));
            Value::Object(entries.filter(|(_, value)| says(value)).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        other => other,
    }
}

fn check_golden(case: &Value) -> Result<(), String> {
    let text = case["dockerfile"].as_str().unwrap();
    let file = match Dockerfile::parse(text.as_bytes()) {
        Ok(file) => file,
        Err(error) => {
            let (_, message) = complaint(&error);
            return same("parse error", json!(message), &case["parse_error"]);
        }
    };
    same("parse error", Value::Null, &case["parse_error"])?;
    same("dump", json!(file.to_string()), &case["dump"])?;
    same("escape", json!(file.escape()), &case["escape"])?;
    let nodes: Vec<Value> = file.nodes().iter().map(node).collect();
    same("nodes", json!(nodes), &without_marks(case["nodes"].clone()))?;
    match file.stages() {
        Ok(stages) => {
            same("instruction error", Value::Null, &case["instruction_error"])?;
            let arguments: Vec<_> = stages
                .arguments
                .iter()
                .map(|argument| json!({"key": argument.name, "value": argument.default}))
                .collect();
            same("arguments", json!(arguments), &case["meta_args"])?;
            same(
                "stages",
                json!(stage_values(&file, &stages)),
                &case["stages"],
            )
        }
        Err(error) => {
            let (line, message) = complaint(&error);
            // BuildKit does not say where, for this one.
            let message = match message.as_str() {
                "no build stage in current context" => message,
                _ => format!("dockerfile parse error on line {line}: {message}"),
            };
            same(
                "instruction error",
                json!(message),
                &case["instruction_error"],
            )
        }
    }
}

/// BuildKit takes one character off a comment, which is a blank where the comment is indented.
fn without_marks(mut nodes: Value) -> Value {
    for node in nodes.as_array_mut().unwrap() {
        for comment in node["preceding_comments"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            *comment = json!(comment.as_str().unwrap().trim_start_matches(['#', ' ']));
        }
    }
    nodes
}

fn node(node: &container_image::build::Node) -> Value {
    let args = match &node.trigger {
        Some(trigger) => json!([""])
            .as_array()
            .filter(|_| trigger.name.is_empty())
            .cloned(),
        None => Some(node.args.iter().map(|arg| json!(arg)).collect()),
    };
    let next = node
        .trigger
        .as_deref()
        .map(|trigger| vec![self::node(trigger)]);
    let heredocs: Vec<_> = node
        .heredocs
        .iter()
        .map(|heredoc| {
            json!({
                "chomp": heredoc.chomp, "content": heredoc.content, "expand": heredoc.expand,
                "fd": heredoc.descriptor, "name": heredoc.name,
            })
        })
        .collect();
    json!({
        "args": args, "attributes": {"json": node.is_json}, "end_line": node.end_line,
        "flags": node.flags, "heredocs": heredocs, "line": node.start_line, "next": next,
        "original": node.original, "preceding_comments": node.comments, "value": node.name,
    })
}

fn argument(argument: &Argument) -> Value {
    json!({
        "Key": argument.name, "Value": argument.default, "DocComment": argument.description,
    })
}

fn stage_values(file: &Dockerfile, stages: &Stages) -> Vec<Value> {
    let stages = stages.list.iter().map(|stage| {
        let commands: Vec<_> = stage
            .steps
            .iter()
            .map(|step| {
                let written = file
                    .nodes()
                    .iter()
                    .find(|node| node.start_line == step.line)
                    .unwrap();
                let mut command = command(&step.instruction);
                command["name"] = json!(written.name);
                if matches!(step.instruction, Instruction::Run(_)) {
                    let name = |flag: &String| flag[2..].split('=').next().unwrap().to_owned();
                    let used: BTreeSet<_> = written.flags.iter().map(name).collect();
                    command["flags"] = json!(used);
                }
                command
            })
            .collect();
        json!({
            "base": stage.base, "name": stage.name, "platform": stage.platform,
            "commands": commands,
        })
    });
    stages.collect()
}

fn command(instruction: &Instruction) -> Value {
    let pairs = |pairs: &[Pair]| -> Vec<Value> {
        pairs
            .iter()
            .map(|pair| {
                json!({
                    "Key": pair.name, "Value": pair.value, "NoDelim": pair.is_legacy,
                })
            })
            .collect()
    };
    let line = |line: &CommandLine| json!({"cmdline": line.words, "prepend_shell": line.is_shell, "files": files(&line.files)});
    match instruction {
        Instruction::Add(add) => json!({
            "sources": add.sources, "contents": inline(&add.files), "dest": add.destination,
            "chown": add.owner, "chmod": add.mode, "link": add.link, "checksum": add.checksum,
            "exclude": add.exclude,
        }),
        Instruction::Arg(arguments) => {
            json!({"args": arguments.iter().map(argument).collect::<Vec<_>>()})
        }
        Instruction::Cmd(command) | Instruction::Entrypoint(command) => line(command),
        Instruction::Copy(Copy {
            sources,
            files,
            destination,
            from,
            owner,
            mode,
            link,
            parents,
            exclude,
            ..
        }) => json!({
            "sources": sources, "contents": inline(files), "dest": destination, "from": from,
            "chown": owner, "chmod": mode, "link": link, "parents": parents, "exclude": exclude,
        }),
        Instruction::Env(env) => json!({"env": pairs(env)}),
        Instruction::Expose(ports) => json!({"ports": ports}),
        Instruction::Healthcheck(health) => json!({"health": {
            "Test": health.test, "Interval": nanoseconds(health.interval),
            "Timeout": nanoseconds(health.timeout), "StartPeriod": nanoseconds(health.start_period),
            "StartInterval": nanoseconds(health.start_interval), "Retries": health.retries,
        }}),
        Instruction::Label(labels) => json!({"labels": pairs(labels)}),
        Instruction::Maintainer(name) => json!({"maintainer": name}),
        Instruction::Onbuild(expression) => json!({"expression": expression}),
        Instruction::Run(run) => {
            let mut value = line(&run.command);
            let mounts = run.mounts.iter().map(|mount| {
                let from = mount
                    .split(',')
                    .find_map(|field| field.strip_prefix("from="));
                json!({"ReadOnly": true, "Type": "bind", "From": from})
            });
            value["mounts"] = json!(mounts.collect::<Vec<_>>());
            value["network"] = json!(match run.network {
                Network::Default => "default",
                Network::None => "none",
                Network::Host => "host",
            });
            value
        }
        Instruction::Shell(shell) => json!({"shell": shell}),
        Instruction::StopSignal(signal) => json!({"signal": signal}),
        Instruction::User(user) => json!({"user": user}),
        Instruction::Volume(volumes) => json!({"volumes": volumes}),
        Instruction::Workdir(path) => json!({"path": path}),
        other => panic!("{other:?}"),
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    duration.as_nanos().try_into().unwrap()
}

fn files(heredocs: &[Heredoc]) -> Vec<Value> {
    heredocs
        .iter()
        .map(|file| json!({"Name": file.name, "Data": file.content, "Chomp": file.chomp}))
        .collect()
}

fn inline(files: &[InlineFile]) -> Vec<Value> {
    files
        .iter()
        .map(|file| json!({"Path": file.name, "Data": file.content, "Expand": file.expand}))
        .collect()
}

#[test]
fn a_dockerfile_is_shown_as_a_tree() {
    let text = include_bytes!("../fixtures/build/Dockerfile");
    let file = Dockerfile::parse(text).unwrap();
    let tree = include_str!("../fixtures/build/tree.txt");
    assert_eq!(file.to_string(), tree.trim_end());
    assert_eq!(file.directives()[0].value, "docker/dockerfile:1");
    assert_eq!(file.stages().unwrap().list.len(), 2);
}

#[test]
fn errors_say_where_and_what_was_meant() {
    for (text, place, message) in [
        ("", (1, 0), "file with no instructions"),
        (
            "FROM a\n\nFORM b",
            (3, 0),
            "unknown instruction: FORM (did you mean FROM?)",
        ),
        ("FROM a\nENV x", (2, 5), "ENV must have two arguments"),
        (
            "FROM a\nENV a=1 b",
            (2, 5),
            "Syntax error - can't find = in \"b\". Must be of the form: name=value",
        ),
        (
            "FROM a\nCMD [\"a\", 1]",
            (2, 5),
            "when using JSON array syntax, arrays must be comprised of strings only",
        ),
        ("RUN a", (1, 0), "no build stage in current context"),
        (
            "FROM a\nCOPY --form=b x y",
            (2, 0),
            "unknown flag: --form (did you mean from?)",
        ),
        ("FROM a\nRUN <<EOF\nx\n", (2, 0), "unterminated heredoc"),
        (
            "# escape=x\nFROM a",
            (1, 0),
            "invalid escape token 'x' does not match ` or \\",
        ),
        (
            "FROM a\nONBUILD ONBUILD RUN x",
            (2, 0),
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=1x CMD x",
            (2, 0),
            "--interval is not a duration: \"1x\"",
        ),
    ] {
        let file = Dockerfile::parse(text.as_bytes());
        let error = file.and_then(|file| file.stages()).unwrap_err();
        assert_eq!(
            (error.code(), error.kind()),
            ("DockerfileSyntax", ErrorKind::InvalidInput)
        );
        let source = std::error::Error::source(&error).unwrap();
        let syntax: &SyntaxError = source.downcast_ref().unwrap();
        assert_eq!((syntax.line(), syntax.column()), place, "{text}");
        assert_eq!(syntax.to_string(), message, "{text}");
    }
    let error = Dockerfile::parse(b"FROM a\nRUN \xff").unwrap_err();
    assert_eq!(
        error.report(),
        "parse the Dockerfile at 2:5: text is not valid UTF-8"
    );
}

#[test]
fn any_text_is_parsed_without_a_panic() {
    let text = include_bytes!("../fixtures/build/Dockerfile");
    // Cut, doubled and spoilt at every place.
    for at in 0..text.len() {
        let (front, back) = text.split_at(at);
        for piece in [
            "", "\\", "<<", "\"", "${", "[", "\n", "--", "\u{fffd}", "\0",
        ] {
            let text = [front, piece.as_bytes(), back].concat();
            if let Ok(file) = Dockerfile::parse(&text) {
                let _ = file.stages();
            }
            let _ = IgnoreRules::parse(&text);
        }
        let _ = Dockerfile::parse(front);
    }
    let deep = "ONBUILD ".repeat(8000);
    assert!(Dockerfile::parse(format!("FROM a\n{deep} RUN x").as_bytes()).is_ok());
}

#[test]
fn sample_dockerfiles_parse_as_buildkit_does() {
    let Some(folder) = cases("dockerfile-parser") else {
        return;
    };
    for entry in fs::read_dir(folder.join("testfiles")).unwrap() {
        let path = entry.unwrap().path();
        let file = Dockerfile::parse(&fs::read(path.join("Dockerfile")).unwrap()).unwrap();
        let want = fs::read_to_string(path.join("result")).unwrap();
        assert_eq!(file.to_string(), want.trim_end(), "{path:?}");
    }
    for entry in fs::read_dir(folder.join("testfiles-negative")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read(path.join("Dockerfile")).unwrap();
        let error = Dockerfile::parse(&text).expect_err(path.to_str().unwrap());
        assert!(complaint(&error).0 > 0, "{path:?} is located");
    }
}

#[test]
fn variables_expand_as_in_buildkit() {
    let Some(folder) = cases("dockerfile-shell") else {
        return;
    };
    let text = fs::read_to_string(folder.join("envVarTest")).unwrap();
    let lookup = |name: &str| {
        let value = match name {
            "PWD" => "/home",
            "SHELL" => "bash",
            "KOREAN" => "한국어",
            "NULL" => "",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let variables = Variables::new(&lookup);
    let mut wrong = Vec::new();
    for line in text.lines() {
        let line =
            line.split_once('#').map_or(
                line,
                |(before, _)| if before.trim().is_empty() { "" } else { line },
            );
        let Some((host, rest)) = line.split_once('|') else {
            continue;
        };
        let Some((word, want)) = rest.rsplit_once('|') else {
            continue;
        };
        if host == "W" {
            continue;
        }
        let (word, want) = (word.trim(), want.trim());
        let got = variables
            .expand(word)
            .unwrap_or_else(|_| "error".to_owned());
        if got != want {
            wrong.push(format!("{word}: got {got}, want {want}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_split_as_in_buildkit() {
    let Some(folder) = cases("dockerfile-shell") else {
        return;
    };
    let text = fs::read_to_string(folder.join("wordsTest")).unwrap();
    let mut environment = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(pair) = line.strip_prefix("ENV ") {
            environment.push(pair.trim_start().to_owned());
            continue;
        }
        let Some((word, want)) = line.split_once('|') else {
            continue;
        };
        let lookup = |name: &str| {
            let mut pairs = environment.iter().rev();
            pairs.find_map(|pair| Some(pair.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        let got = Variables::new(&lookup)
            .expand_words(word.trim())
            .map_or("error".into(), |words| words.join(","));
        assert_eq!(got, want.trim_start(), "{line}");
    }
}

#[test]
fn ignore_rules_match_as_in_docker() {
    let Some(folder) = cases("dockerignore") else {
        return;
    };
    let text = fs::read_to_string(folder.join("tables.json")).unwrap();
    let files: Value = serde_json::from_str(&text).unwrap();
    let tables = files
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|file| file["tables"].as_array().unwrap());
    let mut count = 0;
    for case in tables.flat_map(|table| table["cases"].as_array().into_iter().flatten()) {
        let text = |key: &str| case[key].as_str();
        let (patterns, path, want) =
            if let (Some(text), Some(pass)) = (text("text"), case["pass"].as_bool()) {
                let one = case["pattern"].as_str().map(|pattern| vec![json!(pattern)]);
                let patterns = one.unwrap_or_else(|| case["patterns"].as_array().unwrap().clone());
                (patterns, text, Ok(pass))
            } else if let (Some(pattern), Some(path)) = (text("pattern"), text("s")) {
                let want = match case["err"].is_null() {
                    true => Ok(case["match"].as_bool().unwrap()),
                    false => Err(()),
                };
                (vec![json!(pattern)], path, want)
            } else {
                continue;
            };
        let rules = IgnoreRules::new(patterns.iter().map(|pattern| pattern.as_str().unwrap()));
        let got = rules.map(|rules| rules.ignores(path)).map_err(drop);
        assert_eq!(got, want, "{case}");
        count += 1;
    }
    assert!(count > 100, "{count} cases");
}
