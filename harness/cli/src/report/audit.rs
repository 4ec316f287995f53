//! An audit: each defect, whether the kernel has it, and who has the fix.

use ptediff_reference_model::kernel::{ChangeKind, UNMODELLED};
use ptediff_reference_model::machine::Machine;

use crate::audit::{Finding, Told};
use crate::exit_code::Exit;
use crate::host::session::describe;

/// The exit code: 1 for a kernel that has a defect, 2 for one that died of a program, 125 where a defect could not be
/// decided here.
#[must_use]
pub fn exit(findings: &[Finding]) -> Exit {
    let any = |wanted: fn(&Told) -> bool| findings.iter().any(|finding| wanted(&finding.told));
    if any(|told| *told == Told::Present) {
        Exit::Diverge
    } else if any(|told| matches!(told, Told::Died(_))) {
        Exit::KernelDied
    } else if any(|told| matches!(told, Told::CannotTell(_))) || !any(|told| *told == Told::Absent) {
        Exit::CannotTell
    } else {
        Exit::Agree
    }
}

/// Prints it.
pub fn print(machine: &Machine, findings: &[Finding]) {
    println!("machine      {}", describe(machine));
    for finding in findings {
        let info = finding.defect.info();
        println!("\n{:20} {}", finding.told.name(), info.identifier);
        if let ChangeKind::Defect { cve: Some(cve), .. } = info.kind {
            println!("    {cve}");
        }
        println!("    {}", info.statement);
        println!("    {}: {}", info.function, info.source);
        println!("    {}", fixes(info.versions.until.map(|until| until.to_string())));
        if let Some(why) = finding.told.why() {
            println!("    {why}");
        }
        let expected = machine.kernel_as_released().has(finding.defect);
        match finding.told {
            Told::Present if !expected => println!("    by its version it should not have it"),
            Told::Absent if expected => println!("    by its version it should have it"),
            _ => {}
        }
        if finding.programs != finding.of {
            println!("    {} of {} programs say so; this is one", finding.programs, finding.of);
        }
        for step in finding.program.iter().flat_map(|program| &program.steps) {
            println!("        {step}");
        }
    }
    let affected: Vec<_> = UNMODELLED.iter().filter(|defect| defect.versions.has(machine.judged_version())).collect();
    println!("\nNot expressible yet and not tested; by the table this version has them:");
    for defect in &affected {
        let cve = defect.cve.map_or_else(String::new, |cve| format!(", {cve}"));
        println!("    {}{cve}: {}", defect.identifier, defect.statement);
        println!("        {}: {}", defect.function, defect.source);
        println!("        {}", fixes(defect.versions.until.map(|until| until.to_string())));
    }
    if affected.is_empty() {
        println!("    none");
    }
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for finding in findings {
        let name = finding.told.name();
        match counts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name, 1)),
        }
    }
    let counts: Vec<String> = counts.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    println!("\nin all       {}", counts.join(", "));
    println!("exit         {} ({})", exit(findings) as u8, exit(findings).meaning());
}

fn fixes(until: Option<String>) -> String {
    until.map_or_else(|| "no fix is known".to_owned(), |until| format!("fixed in {until}"))
}

/// The same as JSON.
#[must_use]
pub fn json(machine: &Machine, findings: &[Finding]) -> serde_json::Value {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            let info = finding.defect.info();
            let cve = match info.kind {
                ChangeKind::Defect { cve, .. } => cve,
                ChangeKind::Design => None,
            };
            serde_json::json!({
                "defect": info.identifier,
                "cve": cve,
                "function": info.function,
                "source": info.source,
                "fixed": info.versions.until.map(|until| until.to_string()),
                "by-version": machine.kernel_as_released().has(finding.defect),
                "told": finding.told,
                "programs": finding.programs,
                "of": finding.of,
                "program": finding.program,
            })
        })
        .collect();
    let unmodelled: Vec<_> = UNMODELLED
        .iter()
        .map(|defect| {
            serde_json::json!({
                "defect": defect.identifier,
                "cve": defect.cve,
                "function": defect.function,
                "source": defect.source,
                "fixed": defect.versions.until.map(|until| until.to_string()),
                "by-version": defect.versions.has(machine.judged_version()),
            })
        })
        .collect();
    serde_json::json!({ "machine": machine, "defects": rows, "not-expressible": unmodelled, "exit": exit(findings) as u8 })
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::kernel::Change;

    use super::*;

    #[test]
    fn one_defect_decides_the_exit_code_and_doubt_never_passes_for_agreement() {
        let why = String::new;
        let check = |told: &[Told], expected: Exit| {
            let finding = |told: &Told| Finding::without_program(Change::CloseKeepsUffdWp, told.clone());
            assert_eq!(exit(&told.iter().map(finding).collect::<Vec<_>>()), expected, "{told:?}");
        };
        check(&[Told::Absent, Told::NotExpressible, Told::NotAffected(why())], Exit::Agree);
        check(&[Told::Absent, Told::CannotTell(why()), Told::Died(why()), Told::Present], Exit::Diverge);
        check(&[Told::Absent, Told::CannotTell(why()), Told::Died(why())], Exit::KernelDied);
        check(&[Told::Absent, Told::CannotTell(why())], Exit::CannotTell);
        check(&[Told::NotExpressible, Told::NotAffected(why())], Exit::CannotTell);
        check(&[], Exit::CannotTell);
    }
}
