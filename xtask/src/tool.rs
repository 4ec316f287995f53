//! Running the system's programs with their output kept in a file.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ptediff_vm::store::StoreError;

use crate::error::{TaskError, ToolFailure};

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
    /// [`TaskError::Tool`] with the end of the output if it fails, [`TaskError::NotStarted`] if there is no
    /// such program.
    pub fn run(&self, command: &mut Command) -> Result<(), TaskError> {
        let (output, errors) = self.open_log(command)?;
        let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status();
        let status = status.map_err(|cause| self.not_started(command, cause))?;
        if status.success() { Ok(()) } else { Err(self.failure(command, &status.to_string())) }
    }

    /// Runs one program into another's input, both to their end.
    ///
    /// # Errors
    /// As for [`Tool::run`], for whichever failed.
    pub fn run_pipe(&self, first: &mut Command, second: &mut Command) -> Result<(), TaskError> {
        let (output, errors) = self.open_log(second)?;
        let more_errors = errors.try_clone().map_err(TaskError::io("write", &self.log))?;
        first.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut producer = first.spawn().map_err(|cause| self.not_started(first, cause))?;
        if let Some(pipe) = producer.stdout.take() {
            second.stdin(pipe);
        }
        let consumed = second.stdout(output).stderr(more_errors).status();
        // The producer is waited for in any case: no zombie is left behind.
        let produced = producer.wait().map_err(|cause| self.not_started(first, cause))?;
        let consumed = consumed.map_err(|cause| self.not_started(second, cause))?;
        if !consumed.success() {
            return Err(self.failure(second, &consumed.to_string()));
        }
        if produced.success() { Ok(()) } else { Err(self.failure(first, &produced.to_string())) }
    }

    /// Runs a program and returns its standard output.
    ///
    /// # Errors
    /// As for [`Tool::run`].
    pub fn capture(&self, command: &mut Command) -> Result<String, TaskError> {
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|cause| self.not_started(command, cause))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let all = text + &String::from_utf8_lossy(&output.stderr);
        self.create_log_folder()?;
        fs::write(&self.log, all).map_err(TaskError::io("write", &self.log))?;
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

    fn failure(&self, command: &Command, ending: &str) -> TaskError {
        TaskError::Tool(Box::new(ToolFailure {
            task: self.task.clone(),
            command: command_line(command),
            ending: format!("ended with {ending}"),
            tail: self.tail(),
            log: self.log.clone(),
            remedy: self.remedy.clone(),
        }))
    }

    fn not_started(&self, command: &Command, cause: std::io::Error) -> TaskError {
        TaskError::NotStarted {
            task: self.task.clone(),
            program: command.get_program().to_string_lossy().into_owned(),
            cause,
            remedy: self.remedy.clone(),
        }
    }

    fn create_log_folder(&self) -> Result<(), TaskError> {
        let folder = self.log.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|error| StoreError::from_io("create directory", folder, error))?;
        Ok(())
    }

    /// The log, begun with the command line, once for each stream.
    fn open_log(&self, command: &Command) -> Result<(File, File), TaskError> {
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
    fn each_end_of_a_pipe_can_fail() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let tool = tool(folder.path());
        tool.run_pipe(&mut shell("echo a"), &mut shell("grep -q a")).expect("both succeed");
        tool.run_pipe(&mut shell("echo a; exit 1"), &mut shell("cat")).expect_err("the first failed");
        tool.run_pipe(&mut shell("echo b"), &mut shell("grep -q a")).expect_err("the second failed");
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
