//! Audits of a kernel of the cache.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::machine::{Live, live, require};

/// Defects that QEMU, with protection keys and without, decides on 6.12.
const DECIDED: usize = 9;

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("audit::qemu::6.12", as_its_version_says)]
}

/// Whatever point release the cache has: what is decided is as the table says, and exit code and verdicts go together.
fn as_its_version_says() -> Result<(), Failed> {
    require("6.12", None)?;
    let ran = live(&["audit", "6.12", "--platform", "qemu"])?;
    let defects = ran.json["defects"].as_array().ok_or("a list of defects")?;
    let is = |defect: &Value, verdict: &str| defect["told"]["verdict"] == verdict;
    let mut decided = 0;
    for defect in defects {
        let (present, absent) = (is(defect, "present"), is(defect, "absent"));
        if (present || absent) && defect["by-version"] != present {
            return Err(ran.wrong(&format!("{} is not as its version says", defect["defect"])));
        }
        decided += usize::from(present || absent);
    }
    if decided != DECIDED {
        return Err(ran.wrong(&format!("{decided} defects are decided, not {DECIDED}")));
    }
    must_need_bochs(&ran, defects)?;
    let any = defects.iter().any(|defect| is(defect, "present"));
    if ran.code == if any { 1 } else { 125 } { Ok(()) } else { Err(ran.wrong("the exit code")) }
}

fn must_need_bochs(ran: &Live, defects: &[Value]) -> Result<(), Failed> {
    let of_shadow_stacks = defects.iter().find(|defect| defect["defect"] == "uffd.takes-shadow-stacks");
    let why = of_shadow_stacks.and_then(|defect| defect["told"]["why"].as_str());
    if why.is_some_and(|why| why.contains("--platform bochs")) { Ok(()) } else { Err(ran.wrong("shadow stacks")) }
}
