//! `ptediff rules`: the model's rules with their sources.

use ptediff_reference_model::rule::RULES;

use crate::arguments::Format;
use crate::error::Failure;
use crate::exit_code::Exit;

pub(super) fn run(format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Human => {
            for info in &RULES {
                let dialects: Vec<String> = info.dialects.iter().map(ToString::to_string).collect();
                println!("{} ({})", info.identifier, dialects.join(", "));
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
                        "dialects": info.dialects,
                    })
                })
                .collect();
            println!("{}", serde_json::json!({ "rules": rules }));
        }
    }
    Ok(Exit::Agree)
}
