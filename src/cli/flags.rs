//! Settings in messages, by the flags that set them here.
//!
//! The library calls a setting by its name between backticks, such as `` `memory` ``: a program that
//! embeds it has no flags.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use clap::{Command, CommandFactory};

use super::args::Cli;
use crate::score::{Failure, Record};

/// Whether a word between `before` and `after` stands for itself, and is not part of a name.
fn is_apart(before: &str, after: &str) -> bool {
    let after = after.trim_start_matches(['.', ',', ';', ':', ')', '?']);
    (before.is_empty() || before.ends_with([' ', '(']))
        && (after.is_empty() || after.starts_with([' ', '\n']))
}

/// `text` with `--name` for each setting `` `name` `` that is a flag.
pub(super) fn with_flags(text: &str) -> Cow<'_, str> {
    if !text.contains('`') {
        return text.into();
    }
    let parts: Vec<&str> = text.split('`').collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < parts.len() {
        out.push_str(parts[i]);
        // What stands between this backtick and the next.
        match parts.get(i + 1) {
            Some(name)
                if flags().contains(*name)
                    && parts.get(i + 2).is_some_and(|after| is_apart(parts[i], after)) =>
            {
                out.push_str("--");
                out.push_str(name);
                i += 2;
            }
            Some(_) => {
                out.push('`');
                i += 1;
            }
            None => break,
        }
    }
    out.into()
}

/// The same for a failure.
pub(super) fn in_failure(failure: &mut Failure) {
    failure.message = with_flags(&failure.message).into_owned();
}

/// The same for a record's warnings and failure.
pub(super) fn in_record(record: &mut Record) {
    for warning in &mut record.result.warnings {
        *warning = with_flags(warning).into_owned();
    }
    record.result.error.iter_mut().for_each(in_failure);
}

/// The long names of all options.
fn flags() -> &'static BTreeSet<String> {
    static FLAGS: OnceLock<BTreeSet<String>> = OnceLock::new();
    FLAGS.get_or_init(|| {
        let mut flags = BTreeSet::new();
        collect(&Cli::command(), &mut flags);
        flags
    })
}

fn collect(command: &Command, flags: &mut BTreeSet<String>) {
    flags.extend(command.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned));
    command.get_subcommands().for_each(|command| collect(command, flags));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags_and_the_rest_stays() {
        for (text, expected) in [
            ("raise `memory` to 3 MiB", "raise --memory to 3 MiB"),
            ("`fix` x=1, or `batch-axis` x=none", "--fix x=1, or --batch-axis x=none"),
            ("`memory`", "--memory"),
            ("run `pip install` with `bn`", "run `pip install` with --bn"),
            ("a ` alone, `nothing`", "a ` alone, `nothing`"),
            ("`` `init` ``", "`` --init ``"),
            ("'a`memory`.onnx', '`memory`.bin'", "'a`memory`.onnx', '`memory`.bin'"),
            ("(see `bn`).", "(see --bn)."),
            ("none", "none"),
        ] {
            assert_eq!(with_flags(text), expected);
        }
    }

    /// Every name that a message of the library has between backticks is a flag, or no setting.
    #[test]
    fn messages_name_settings_that_are_flags() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut folders = vec![std::path::PathBuf::from(sources)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with("cli") {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    for line in code {
                        let flag = line.match_indices("--").find(|&(at, _)| {
                            line[at + 2..].starts_with(|c: char| c.is_ascii_lowercase())
                        });
                        let is_command = line.contains("--format markdown");
                        assert!(flag.is_none() || is_command, "{}: {line}", path.display());
                    }
                }
            }
        }
    }
}
