//! Flags as the originals take them: one dash or two, `--flag value` or `--flag=value`, unique beginnings of a name.

use std::collections::BTreeMap;

use super::{Call, Refusal};

/// Exit code for arguments that make no sense, in Python's argparse and Go's flag alike.
pub(super) const USAGE: u8 = 2;

/// One flag of a program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    /// What the value is called in the help; `None` for a switch.
    pub(super) value: Option<&'static str>,
    /// Variables that set it too; the first one that is not empty counts. The flag wins.
    pub(super) env: &'static [&'static str],
    /// One line.
    pub(super) help: &'static str,
}

/// A program and its flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) about: &'static str,
    pub(super) flags: &'static [Flag],
}

/// Values of flags and variables.
#[derive(Clone, Debug, Default)]
pub(super) struct Parsed {
    name: String,
    values: BTreeMap<&'static str, String>,
}

impl Program {
    /// Reads the arguments, then the environment for what they do not say.
    pub(super) fn parse(&self, call: &Call) -> Result<Parsed, Refusal> {
        let refuse = |why: String| {
            Refusal::new(USAGE, format!("{}{}: error: {why}\n", self.usage(&call.name), call.name))
        };
        let mut parsed = Parsed { name: call.name.clone(), values: BTreeMap::new() };
        let mut args = call.args.iter();
        while let Some(arg) = args.next() {
            let Some(given) =
                arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|g| !g.is_empty())
            else {
                return Err(refuse(format!("unrecognized arguments: {}", arg.escape_debug())));
            };
            let (name, inline) = match given.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (given, None),
            };
            if matches!(name, "h" | "help") {
                return Err(Refusal::new(0, self.help(&call.name)));
            }
            let flag = self.flag(name).map_err(|why| refuse(why(arg)))?;
            let value = match (flag.value, inline) {
                (Some(_), Some(value)) => value.to_owned(),
                (Some(_), None) => args
                    .next()
                    .ok_or_else(|| refuse(format!("argument --{}: expected one argument", flag.name)))?
                    .clone(),
                (None, None) => "true".to_owned(),
                (None, Some(value)) => value.to_owned(),
            };
            parsed.values.insert(flag.name, value);
        }
        for flag in self.flags {
            let set = flag.env.iter().filter_map(|name| call.env.get(*name)).find(|v| !v.is_empty());
            if let Some(value) = set {
                parsed.values.entry(flag.name).or_insert_with(|| value.clone());
            }
        }
        Ok(parsed)
    }

    fn flag(&self, name: &str) -> Result<&'static Flag, impl Fn(&str) -> String + use<>> {
        if let Some(flag) = self.flags.iter().find(|f| f.name == name) {
            return Ok(flag);
        }
        let mut like = self.flags.iter().filter(|f| !name.is_empty() && f.name.starts_with(name));
        let found: Vec<&str> = like.clone().map(|f| f.name).collect();
        match (like.next(), found.len()) {
            (Some(flag), 1) => Ok(flag),
            _ => Err(move |arg: &str| {
                if found.is_empty() {
                    format!("unrecognized arguments: {}", arg.escape_debug())
                } else {
                    format!("ambiguous option: {} could match --{}", arg.escape_debug(), found.join(", --"))
                }
            }),
        }
    }

    fn usage(&self, name: &str) -> String {
        let flags = self.flags.iter().map(|f| match f.value {
            Some(value) => format!(" [--{} {value}]", f.name),
            None => format!(" [--{}]", f.name),
        });
        format!("usage: {name} [-h]{}\n", flags.collect::<String>())
    }

    fn help(&self, name: &str) -> String {
        let mut text = format!("{}\n{}\n\noptions:\n  -h, --help\n", self.usage(name), self.about);
        for flag in self.flags {
            let value = flag.value.map(|v| format!(" {v}")).unwrap_or_default();
            let env = match flag.env {
                [] => String::new(),
                names => format!(" [env: {}]", names.join(", ")),
            };
            text.push_str(&format!("  --{}{value}\n        {}{env}\n", flag.name, flag.help));
        }
        text
    }
}

impl Parsed {
    /// Its value, if it was given; an explicit empty one counts.
    pub(super) fn get(&self, flag: &str) -> Option<&str> {
        self.values.get(flag).map(String::as_str)
    }

    /// Whether a switch is on.
    pub(super) fn on(&self, flag: &str) -> Result<bool, Refusal> {
        match self.get(flag).map(str::to_ascii_lowercase).as_deref() {
            None | Some("false" | "0" | "no" | "off") => Ok(false),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some(_) => Err(self.refuse(flag, "expected true or false")),
        }
    }

    /// A value of another type.
    pub(super) fn value<T: std::str::FromStr>(&self, flag: &str, what: &str) -> Result<Option<T>, Refusal> {
        self.get(flag)
            .map(|text| {
                text.trim().parse().map_err(|_| {
                    self.refuse(flag, &format!("invalid {what} value: '{}'", text.escape_debug()))
                })
            })
            .transpose()
    }

    /// A refusal because of one flag.
    pub(super) fn refuse(&self, flag: &str, why: &str) -> Refusal {
        Refusal::new(USAGE, format!("{}: error: argument --{flag}: {why}\n", self.name))
    }

    /// A refusal because of a flag that is needed.
    pub(super) fn missing(&self, flag: &str) -> Refusal {
        let text = format!("{}: error: the following arguments are required: --{flag}\n", self.name);
        Refusal::new(USAGE, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        Flag { name: "agent-id", value: Some("ID"), env: &["AGENT_ID"], help: "who" },
        Flag { name: "api-key", value: Some("KEY"), env: &[], help: "key" },
        Flag { name: "api-key-file", value: Some("FILE"), env: &[], help: "file" },
        Flag { name: "port", value: Some("N"), env: &["A", "B"], help: "port" },
        Flag { name: "open", value: None, env: &["OPEN"], help: "switch" },
    ];
    const PROGRAM: Program = Program { about: "A test.", flags: FLAGS };

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, Refusal> {
        PROGRAM.parse(&Call::new("prog").with_args(args.to_vec()).with_env(env.to_vec()))
    }

    #[test]
    fn all_spellings_of_the_originals() {
        for args in [
            &["--agent-id", "x"][..],
            &["--agent-id=x"],
            &["-agent-id=x"],
            &["-agent-id", "x"],
            &["--agent", "x"],
        ] {
            assert_eq!(parse(args, &[]).unwrap().get("agent-id"), Some("x"), "{args:?}");
        }
        // A whole name is no beginning of a longer one; the last one given counts.
        assert_eq!(
            parse(&["--api-key=", "--port", "1", "--port", "2"], &[]).unwrap().get("api-key"),
            Some("")
        );
        assert_eq!(
            parse(&["--port", "1", "--port", "2"], &[]).unwrap().value::<u16>("port", "int").unwrap(),
            Some(2)
        );
        assert!(parse(&["--open"], &[]).unwrap().on("open").unwrap());
    }

    #[test]
    fn flags_win_over_variables_and_empty_variables_are_none() {
        let env = [("AGENT_ID", "e"), ("A", ""), ("B", "7"), ("OPEN", "0")];
        let parsed = parse(&["--agent-id", "f"], &env).unwrap();
        assert_eq!((parsed.get("agent-id"), parsed.get("port")), (Some("f"), Some("7")));
        assert!(!parsed.on("open").unwrap());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_code_2() {
        for (args, says) in [
            (&["--bogus"][..], "unrecognized arguments: --bogus"),
            (&["--agent-id"], "argument --agent-id: expected one argument"),
            (&["--a", "x"], "ambiguous option"),
            (&["x"], "unrecognized arguments: x"),
            (&["-"], "unrecognized"),
        ] {
            let refusal = parse(args, &[]).unwrap_err();
            assert!(refusal.code == 2 && refusal.text.contains(says), "{args:?}: {}", refusal.text);
        }
        let refusal = parse(&["--port", "abc"], &[]).unwrap().value::<u16>("port", "int").unwrap_err();
        assert!(refusal.text.contains("invalid int value: 'abc'"));
        let help = parse(&["-h"], &[]).unwrap_err();
        assert!(help.code == 0 && help.text.contains("--agent-id ID"));
    }
}
