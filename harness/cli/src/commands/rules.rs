//! `ptediff rules`: the model's rules with their sources.

use ptediff_reference_model::rule::{RULES, RuleInfo};

use crate::arguments::Format;
use crate::error::Failure;
use crate::exit_code::Exit;

/// What a kernel must have for the rule to be reached.
fn needs(info: &RuleInfo) -> String {
    let needs: Vec<String> = info.needs.iter().map(ToString::to_string).collect();
    if needs.is_empty() { "any kernel".to_owned() } else { needs.join(", ") }
}

pub(super) fn run(format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Human => {
            for info in &RULES {
                println!("{} ({})", info.identifier, needs(info));
                println!("    {}", info.statement);
                println!("    {}", info.source);
            }
        }
        Format::Json => {
            let rules: Vec<_> = RULES
                .iter()
                .map(|info| {
                    serde_json::json!({
                        "rule": info.identifier,
                        "statement": info.statement,
                        "source": info.source,
                        "needs": info.needs,
                    })
                })
                .collect();
            println!("{}", serde_json::json!({ "rules": rules }));
        }
    }
    Ok(Exit::Agree)
}
