//! A git repository made for a test, and real bisections in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::command::run;

/// A repository with a commit for each content of one file; the first is known to be good, the last to be bad.
pub(crate) struct Repository {
    folder: TempDir,
    commits: Vec<String>,
}

impl Repository {
    pub(crate) fn new(file: &str, contents: impl Iterator<Item = Vec<u8>>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut repository = Self { folder, commits: Vec::new() };
        repository.git(&["init", "--quiet"]);
        for (index, content) in contents.enumerate() {
            fs::write(repository.path().join(file), content).expect("the file can be written");
            // Two commits in a row may hold the same.
            fs::write(repository.path().join("number"), index.to_string()).expect("the number can be written");
            repository.git(&["add", "."]);
            repository.git(&["commit", "--quiet", "--message", &format!("commit {index}")]);
            let commit = repository.git(&["rev-parse", "HEAD"]).trim().to_owned();
            repository.commits.push(commit);
        }
        repository
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.current_dir(self.path()).args(["-c", "user.name=test", "-c", "user.email=test"]).args(arguments);
        // The repository that these tests may be run from must not be taken for ours.
        for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "PTEDIFF_PLANT_PANIC"] {
            command.env_remove(variable);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("LC_ALL", "C");
        command
    }

    fn git(&self, arguments: &[&str]) -> String {
        let ran = run(self.command(arguments));
        assert_eq!(ran.code, 0, "git {arguments:?}: {ran:#?}");
        ran.stdout
    }

    /// Bisects with this line of shell; gives what git said.
    pub(crate) fn bisect(&self, line: &str) -> String {
        let (first, last) = (&self.commits[0], &self.commits[self.commits.len() - 1]);
        self.git(&["bisect", "start", last, first]);
        let ran = run(self.command(&["bisect", "run", "sh", "-c", line]));
        ran.stdout + &ran.stderr
    }

    /// The commit that git blames, by its number, once a bisection is done.
    pub(crate) fn first_bad(&self) -> Option<usize> {
        let log = self.git(&["bisect", "log"]);
        let line = log.lines().find_map(|line| line.strip_prefix("# first bad commit: ["))?;
        self.commits.iter().position(|commit| line.starts_with(commit.as_str()))
    }
}
