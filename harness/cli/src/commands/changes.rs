//! `ptediff changes`: what the table says of kernels, or of one version.

use ptediff_reference_model::kernel::{ChangeInfo, ChangeKind, Facts, Kernel, changes};

use crate::arguments::{Changes, Format};
use crate::error::Failure;
use crate::exit_code::Exit;

pub(super) fn run(arguments: &Changes, format: Format) -> Result<Exit, Failure> {
    let released = arguments.version.map(|version| Kernel::as_released(version, Facts::usual(version)));
    let listed = changes().filter(|info| released.is_none_or(|kernel| kernel.has(info.change)));
    match format {
        Format::Human => listed.for_each(print),
        Format::Json => {
            let listed: Vec<_> = listed.map(json).collect();
            println!("{}", serde_json::json!({ "version": arguments.version, "changes": listed }));
        }
    }
    Ok(Exit::Agree)
}

fn print(info: &ChangeInfo) {
    let kind = if info.is_defect() { "defect" } else { "design" };
    println!("{} ({kind})", info.identifier);
    println!("    {}", info.statement);
    if let ChangeKind::Defect { cve, right } = info.kind {
        println!("    right: {right}");
        cve.iter().for_each(|cve| println!("    {cve}"));
    }
    println!("    {}: {}", info.function, info.source);
    println!("    since {}{}", info.versions.since, until(info));
    info.fact.iter().for_each(|fact| println!("    where {}", fact.statement()));
}

fn until(info: &ChangeInfo) -> String {
    info.versions.until.map_or_else(String::new, |until| format!(", until {until}"))
}

fn json(info: &ChangeInfo) -> serde_json::Value {
    let (cve, right) = match info.kind {
        ChangeKind::Design => (None, None),
        ChangeKind::Defect { cve, right } => (cve, Some(right)),
    };
    serde_json::json!({
        "change": info.identifier,
        "defect": info.is_defect(),
        "statement": info.statement,
        "right": right,
        "cve": cve,
        "function": info.function,
        "source": info.source,
        "since": info.versions.since.to_string(),
        "until": info.versions.until.map(|until| until.to_string()),
        "fact": info.fact.map(|fact| fact.statement()),
    })
}
