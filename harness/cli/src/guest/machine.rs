//! What the machine is, proved in the guest: never taken from the emulator's name.

use std::fs;
use std::path::Path;

use ptediff_reference_model::kernel::{Facts, KernelVersion};
use ptediff_reference_model::machine::Machine;

use super::{facts, swap};

/// What was looked at and what it said.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub build: String,
    /// The CPU's model name.
    pub cpu_model: String,
    /// The CPU's flags in /proc/cpuinfo.
    pub flags: Vec<String>,
    /// What besides the version decides how the kernel behaves.
    pub facts: Facts,
    /// The kernel's complaint about the XSAVE area, if there is one in its log.
    pub xsave_complaint: Option<String>,
    /// Why there is no swap file to be had, if there is none.
    pub no_swap: Option<String>,
}

impl Evidence {
    /// Looks, and prepares the swap file, which cannot be known to work otherwise. `without_modules` is why the machine
    /// was given no modules for it.
    ///
    /// # Errors
    /// /proc is not readable.
    pub fn gather(platform: &str, without_modules: Option<&str>) -> std::io::Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let build = fs::read_to_string("/proc/sys/kernel/version")?.trim().to_owned();
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let field = |name: &str| {
            cpu.lines()
                .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim().to_owned())
                .unwrap_or_default()
        };
        Ok(Self {
            release,
            build,
            cpu_model: field("model name"),
            facts: facts::gather(),
            flags: field("flags").split_whitespace().map(str::to_owned).collect(),
            // A record of /dev/kmsg is `prefix;text`.
            xsave_complaint: kernel_log()
                .lines()
                .find(|line| is_xsave_complaint(line))
                .map(|line| line.split_once(';').map_or(line, |(_, text)| text).to_owned()),
            no_swap: swap::prepare(platform, without_modules).err(),
        })
    }

    /// Features of `required` that this machine lacks, by name.
    ///
    /// `user_shstk` alone proves nothing: a CPU whose XSAVE area the kernel rejects keeps that flag while
    /// X86_FEATURE_SHSTK is cleared, and `pte_shstk()` is false. So shadow stacks also need `xsaves` and a
    /// kernel that did not complain.
    #[must_use]
    pub fn missing(&self, required: &[String]) -> Vec<String> {
        let mut missing = Vec::new();
        for feature in required {
            let mut needed = vec![feature.as_str()];
            if feature == "user_shstk" {
                needed.push("xsaves");
            }
            for name in needed {
                if !self.has(name) && !missing.iter().any(|known| known == name) {
                    missing.push(name.to_owned());
                }
            }
            if feature == "user_shstk"
                && let Some(complaint) = &self.xsave_complaint
            {
                missing.push(format!("a consistent XSAVE area (the kernel says: {complaint})"));
            }
        }
        missing
    }

    /// Whether the CPU has the flag.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    /// Whether user shadow stacks may be tried.
    #[must_use]
    pub fn may_have_shadow_stack(&self) -> bool {
        self.missing(&["user_shstk".to_owned()]).is_empty()
    }

    /// The evidence in lines, for a refusal.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let relevant = ["xsave", "xsaves", "user_shstk", "pku", "ospke", "la57"];
        let flags: Vec<&str> = relevant.into_iter().filter(|flag| self.has(flag)).collect();
        vec![
            format!("kernel {}", self.release),
            format!("CPU {}", self.cpu_model),
            format!("of {} /proc/cpuinfo has {}", relevant.join(", "), flags.join(", ")),
        ]
    }

    /// The machine for the model. `shadow_stack` is what a live shadow-stack store proved.
    ///
    /// # Errors
    /// A sentence: `uname -r` names no version.
    pub fn machine(
        &self,
        platform: &str,
        shadow_stack: bool,
        judged_as: Option<KernelVersion>,
    ) -> Result<Machine, String> {
        let version = KernelVersion::of_uname(&self.release, &self.build).map_err(|error| error.to_string())?;
        Ok(Machine {
            release: self.release.clone(),
            version,
            judged_as,
            facts: self.facts,
            shadow_stack,
            protection_keys: self.has("ospke"),
            swap: self.no_swap.is_none(),
            merging: platform != "native" && Path::new("/sys/kernel/mm/ksm/run").exists(),
            exact_accessed: platform != "native",
            platform: platform.to_owned(),
            cpu_model: self.cpu_model.clone(),
        })
    }
}

fn is_xsave_complaint(line: &str) -> bool {
    line.contains("XSAVE consistency problem") || line.contains("misordered xstate")
}

/// The kernel's log; empty where it cannot be read, which proves nothing either way.
fn kernel_log() -> String {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let Ok(mut file) = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") else {
        return String::new();
    };
    let mut log = String::new();
    let mut record = [0; 8192];
    while let Ok(length) = file.read(&mut record) {
        if length == 0 {
            break;
        }
        log.push_str(&String::from_utf8_lossy(&record[..length]));
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &str, complaint: Option<&str>, required: &[&str], missing: &[&str]) {
        let evidence = Evidence {
            flags: flags.split_whitespace().map(str::to_owned).collect(),
            xsave_complaint: complaint.map(str::to_owned),
            ..Evidence::default()
        };
        let required: Vec<String> = required.iter().map(|name| (*name).to_owned()).collect();
        let seen = evidence.missing(&required);
        assert_eq!(seen.len(), missing.len(), "{flags}: {seen:?}");
        for (seen, expected) in seen.iter().zip(missing) {
            assert!(seen.starts_with(expected), "{flags}: {seen:?}");
        }
    }

    #[test]
    fn a_broken_xsave_area_is_no_shadow_stack() {
        check("xsaves user_shstk ospke", None, &["user_shstk", "ospke"], &[]);
        check("user_shstk", None, &["user_shstk", "ospke"], &["xsaves", "ospke"]);
        check(
            "user_shstk",
            Some("x86/fpu: misordered xstate at 9"),
            &["user_shstk"],
            &["xsaves", "a consistent XSAVE area"],
        );
        check("fpu", None, &["user_shstk"], &["user_shstk", "xsaves"]);
    }
}
