//! Running the system's programs with their output kept in a file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ptediff_vm::store::StoreError;

use crate::error::{ArchiveError, ToolFailure};

/// How many lines of a failed program's output are shown.
const TAIL_LINES: usize = 15;

/// What a program is run for, where its output goes and what to do when it fails.
#[derive(Debug, Clone)]
pub struct Tool {
    /// What is being done, in words: "building bochs-3.0".
    pub task: String,
    /// The file that takes all output.
    pub log: PathBuf,
    /// What to do when it fails.
    pub remedy: String,
}

impl Tool {
    /// Runs a program to its end.
    ///
    /// # Errors
    /// [`ArchiveError::Tool`] with the end of the output if it fails, [`ArchiveError::NotStarted`] if there is no
    /// such program.
    pub fn run(&self, command: &mut Command) -> Result<(), ArchiveError> {
        let (output, errors) = self.open_log(command)?;
        let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
        let status = status.map_err(|cause| self.not_started(command, cause))?;
        if status.success() { Ok(()) } else { Err(self.failure(command, &status.to_string())) }
    }

    /// Runs a program while `read` takes its standard output; what `read` leaves is thrown away.
    ///
    /// # Errors
    /// As for [`Tool::run`], then those of `read`.
    pub fn read_output<T>(
        &self,
        command: &mut Command,
        read: impl FnOnce(&mut dyn Read) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let (_, errors) = self.open_log(command)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().map_err(|cause| self.not_started(command, cause))?;
        let result = match child.stdout.take() {
            Some(mut stream) => {
                let result = read(&mut stream);
                // Whoever writes must not die of a closed pipe. That it fails is seen by its status.
                let _ = io::copy(&mut stream, &mut io::sink());
                Some(result)
            }
            None => None,
        };
        let status = child.wait().map_err(|cause| self.not_started(command, cause))?;
        match result {
            Some(result) if status.success() => result,
            _ => Err(self.failure(command, &status.to_string())),
        }
    }

    /// Runs a program and returns its standard output.
    ///
    /// # Errors
    /// As for [`Tool::run`].
    pub fn capture(&self, command: &mut Command) -> Result<String, ArchiveError> {
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|cause| self.not_started(command, cause))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let all = text + &String::from_utf8_lossy(&output.stderr);
        self.create_log_folder()?;
        fs::write(&self.log, all).map_err(ArchiveError::io("write", &self.log))?;
        Err(self.failure(command, &output.status.to_string()))
    }

    /// The last lines of the output so far.
    #[must_use]
    pub fn tail(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn failure(&self, command: &Command, ending: &str) -> ArchiveError {
        ArchiveError::Tool(Box::new(ToolFailure {
            task: self.task.clone(),
            command: command_line(command),
            ending: format!("ended with {ending}"),
            tail: self.tail(),
            log: self.log.clone(),
            remedy: self.remedy.clone(),
        }))
    }

    fn not_started(&self, command: &Command, cause: io::Error) -> ArchiveError {
        ArchiveError::NotStarted {
            task: self.task.clone(),
            program: command.get_program().to_string_lossy().into_owned(),
            cause,
            remedy: self.remedy.clone(),
        }
    }

    fn create_log_folder(&self) -> Result<(), ArchiveError> {
        let folder = self.log.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|error| StoreError::from_io("create directory", folder, error))?;
        Ok(())
    }

    /// The log, begun with the command line, once for each stream.
    fn open_log(&self, command: &Command) -> Result<(File, File), ArchiveError> {
        self.create_log_folder()?;
        let failed = |error| StoreError::from_io("write", &self.log, error);
        let mut log = File::create(&self.log).map_err(failed)?;
        writeln!(log, "$ {}", command_line(command)).map_err(failed)?;
        let second = log.try_clone().map_err(failed)?;
        Ok((log, second))
    }
}

/// The command line as a user would type it.
#[must_use]
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./=:+,@~%".contains(letter);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(folder: &Path) -> Tool {
        Tool { task: "a trial".to_owned(), log: folder.join("logs/trial.log"), remedy: "try again".to_owned() }
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_the_log() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let tool = tool(folder.path());
        let error = tool.run(&mut shell("seq 1 100; echo why >&2; exit 3")).expect_err("exit status 3");
        let message = error.to_string();
        assert!(message.contains("exit status: 3") && message.ends_with("99\n100\nwhy"), "{message}");
        assert!(!message.contains("\n50\n"), "only the tail: {message}");
        assert!(tool.log.exists());
    }

    #[test]
    fn output_is_read_and_a_failure_is_seen_behind_it() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let tool = tool(folder.path());
        let first_byte = |stream: &mut dyn Read| {
            let mut byte = [0];
            stream.read_exact(&mut byte).map_err(ArchiveError::io("read", Path::new("/")))?;
            Ok(byte[0])
        };
        assert_eq!(tool.read_output(&mut shell("seq 1 100000"), first_byte).expect("read"), b'1');
        let error = tool.read_output(&mut shell("echo a; echo why >&2; exit 3"), first_byte).expect_err("status 3");
        assert!(error.to_string().contains("why"), "{error}");
        tool.read_output(&mut shell("true"), first_byte).expect_err("nothing to read");
    }

    #[test]
    fn a_missing_program_is_named() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let error = tool(folder.path()).capture(&mut Command::new("/nonexistent/program")).expect_err("no program");
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }

    #[test]
    fn command_lines_can_be_pasted() {
        let mut command = Command::new("apt-get");
        command.args(["-o", "A::B=c", "it's", ""]);
        assert_eq!(command_line(&command), r"apt-get -o A::B=c 'it'\''s' ''");
    }
}
