//! Changes of a config in the words of Dockerfiles, as `import` and `commit` take them.

use crate::{Error, Healthcheck, Result, RunConfig};

impl RunConfig {
    /// Changes the config by instructions: `CMD`, `ENTRYPOINT`, `ENV`, `EXPOSE`, `HEALTHCHECK`,
    /// `LABEL`, `ONBUILD`, `STOPSIGNAL`, `USER`, `VOLUME` or `WORKDIR`. Commands are in the form of a
    /// shell or of JSON; words may be quoted. An `ENTRYPOINT` without a `CMD` before it takes away the
    /// command that was there, as that was meant for another entry point.
    ///
    /// # Errors
    /// `InvalidChange` for the first that is none; what comes before it has been changed then.
    ///
    /// # Examples
    ///
    /// ```
    /// use container_image::RunConfig;
    ///
    /// let mut config = RunConfig::default();
    /// config.apply([r#"CMD ["nginx", "-g", "daemon off;"]"#, "ENV MODE=fast NAME='a b'"])?;
    /// assert_eq!(config.cmd.unwrap()[2], "daemon off;");
    /// assert_eq!(config.env, ["MODE=fast", "NAME=a b"]);
    /// # Ok::<(), container_image::Error>(())
    /// ```
    ///
    /// # References
    /// Docker's `docker import --change`, `docker commit --change`.
    pub fn apply(&mut self, instructions: impl IntoIterator<Item: AsRef<str>>) -> Result<()> {
        let mut has_command = false;
        for instruction in instructions {
            self.change(instruction.as_ref(), &mut has_command)?;
        }
        Ok(())
    }

    fn change(&mut self, instruction: &str, has_command: &mut bool) -> Result<()> {
        let invalid = || {
            let doing = format!("change an image config by {instruction:?}");
            Error::invalid("InvalidChange", doing)
        };
        let text = instruction.trim();
        let (name, rest) = text.split_once(char::is_whitespace).ok_or_else(invalid)?;
        let rest = rest.trim();
        if rest.contains('\0') {
            return Err(invalid());
        }
        match name.to_ascii_uppercase().as_str() {
            "CMD" => {
                self.cmd = Some(self.command(rest));
                *has_command = true;
            }
            "ENTRYPOINT" => {
                self.entrypoint = Some(self.command(rest));
                self.cmd = self.cmd.take().filter(|_| *has_command);
            }
            "ENV" => {
                for (name, value) in pairs(rest).ok_or_else(invalid)? {
                    let of = format!("{name}=");
                    self.env.retain(|known| !known.starts_with(&of));
                    self.env.push(of + &value);
                }
            }
            "LABEL" => self.labels.extend(pairs(rest).ok_or_else(invalid)?),
            "EXPOSE" => {
                for port in words(rest).ok_or_else(invalid)? {
                    let port = if port.contains('/') {
                        port
                    } else {
                        port + "/tcp"
                    };
                    if !crate::builder::is_port(&port) {
                        return Err(invalid());
                    }
                    self.exposed_ports.insert(port);
                }
            }
            "VOLUME" => {
                let paths = json_words(rest)
                    .or_else(|| words(rest))
                    .ok_or_else(invalid)?;
                self.volumes.extend(paths);
            }
            "HEALTHCHECK" => self.healthcheck = Some(healthcheck(rest).ok_or_else(invalid)?),
            "ONBUILD" => self.on_build.push(rest.into()),
            "STOPSIGNAL" => self.stop_signal = Some(rest.into()),
            "USER" => self.user = rest.into(),
            "WORKDIR" if rest.starts_with('/') => self.working_dir = rest.into(),
            "WORKDIR" => {
                let base = self.working_dir.trim_end_matches('/');
                self.working_dir = format!("{base}/{rest}");
            }
            _ => return Err(invalid()),
        }
        Ok(())
    }

    /// A command in the form of JSON, or else for the shell.
    fn command(&self, text: &str) -> Vec<String> {
        json_words(text).unwrap_or_else(|| {
            let shell = self.shell.clone();
            let mut command = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            command.push(text.into());
            command
        })
    }
}

fn json_words(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// Words between spaces; quotes keep spaces together, a backslash takes the next character as it is
/// but within single quotes.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(chars.next()?),
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (_, Some(open)) if char == open => quote = None,
            (_, None) if char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    (quote.is_none() && !words.is_empty()).then_some(words)
}

/// `name=value …`, or the old form `name value`, whose value is the rest.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if !first.contains('=') {
        let rest = rest.trim();
        return (!rest.is_empty()).then(|| vec![(first.into(), rest.into())]);
    }
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    words(text)?.iter().map(pair).collect()
}

/// `NONE`, or options and then `CMD` with a command.
fn healthcheck(text: &str) -> Option<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text.trim();
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace)?;
        let (name, value) = option.split_once('=')?;
        match name {
            "interval" => check.interval_ns = nanoseconds(value)?,
            "timeout" => check.timeout_ns = nanoseconds(value)?,
            "start-period" => check.start_period_ns = nanoseconds(value)?,
            "start-interval" => check.start_interval_ns = nanoseconds(value)?,
            "retries" => check.retries = value.parse().ok().filter(|number| *number >= 0)?,
            _ => return None,
        }
        rest = after.trim_start();
    }
    if rest.eq_ignore_ascii_case("none") {
        check.test = vec!["NONE".into()];
        return Some(check);
    }
    let (word, command) = rest.split_once(char::is_whitespace)?;
    let command = command.trim();
    if !word.eq_ignore_ascii_case("cmd") || command.is_empty() {
        return None;
    }
    check.test = match json_words(command) {
        Some(words) => [vec!["CMD".into()], words].concat(),
        None => vec!["CMD-SHELL".into(), command.into()],
    };
    Some(check)
}

/// A length of time such as `1m30s`, `500ms` or `1.5s`.
fn nanoseconds(text: &str) -> Option<i64> {
    let span: jiff::SignedDuration = text.parse().ok()?;
    i64::try_from(span.as_nanos())
        .ok()
        .filter(|time| *time >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_and_what_they_change() {
        let mut config = RunConfig {
            env: vec!["A=0".into(), "B=1".into()],
            cmd: Some(vec!["old".into()]),
            ..RunConfig::default()
        };
        let instructions = [
            "entrypoint [\"/app\", \"a b\"]",
            "CMD echo $HOME",
            "ENV A=2 C=\"x y\" D=it\\'s",
            "ENV OLD the rest of it",
            "LABEL k=v 'with space'=1",
            "EXPOSE 80 53/udp 8000-8010",
            "VOLUME [\"/a\", \"/b\"]",
            "VOLUME /c /d",
            "USER app:app",
            "WORKDIR /srv",
            "WORKDIR data",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl localhost",
            "SHELL [\"x\"]",
        ];
        let (last, instructions) = instructions.split_last().unwrap();
        config.apply(instructions).unwrap();
        assert_eq!(config.apply([last]).unwrap_err().code(), "InvalidChange");
        let text = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).into()).collect() };
        assert_eq!(config.entrypoint, Some(text(&["/app", "a b"])));
        assert_eq!(config.cmd, Some(text(&["/bin/sh", "-c", "echo $HOME"])));
        assert_eq!(
            config.env,
            ["B=1", "A=2", "C=x y", "D=it's", "OLD=the rest of it"]
        );
        assert_eq!(config.labels["with space"], "1");
        assert_eq!(config.exposed_ports.len(), 3);
        assert_eq!(config.volumes.len(), 4);
        assert_eq!(
            (&*config.user, &*config.working_dir),
            ("app:app", "/srv/data")
        );
        assert_eq!(config.on_build, ["RUN make"]);
        config.apply(["ENTRYPOINT [\"/other\"]"]).unwrap();
        assert_eq!(config.cmd, None);
        config.apply(["CMD x", "ENTRYPOINT [\"/third\"]"]).unwrap();
        assert!(config.cmd.is_some());
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval_ns, check.retries), (90_000_000_000, 2));
        assert_eq!(check.test, ["CMD-SHELL", "curl localhost"]);
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for instruction in [
            "",
            "CMD",
            "RUN make",
            "FROM x",
            "COPY a b",
            "ENV A",
            "ENV =x",
            "ENV A='open",
            "EXPOSE x",
            "EXPOSE 0",
            "HEALTHCHECK --interval=soon CMD x",
            "HEALTHCHECK --retries=-1 CMD x",
            "HEALTHCHECK CMD",
            "USER a\0b",
        ] {
            let error = RunConfig::default().apply([instruction]).unwrap_err();
            assert_eq!(error.code(), "InvalidChange", "{instruction}");
        }
    }
}
