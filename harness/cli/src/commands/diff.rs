//! `ptediff diff`: where the behaviour of two kernels differs, by their snapshots.

use std::path::Path;

use crate::arguments::{Diff, Format};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::report::snapshots::{Change, Timelines, changes, read_snapshots};

pub(super) fn run(arguments: &Diff, format: Format) -> Result<Exit, Failure> {
    let (first, second) = (arguments.first.as_str(), arguments.second.as_str());
    let of_first = read(&arguments.snapshots, first)?;
    let of_second = read(&arguments.snapshots, second)?;
    let changes = changes((first, &of_first), (second, &of_second));
    match format {
        Format::Human => {
            for (name, change) in &changes {
                match change {
                    Change::OnlyFirst => println!("{name}: run on {first} only\n"),
                    Change::OnlySecond => println!("{name}: run on {second} only\n"),
                    Change::Differs(difference) => println!("{name}: differs\n{difference}"),
                }
            }
            println!("{} of {} entries differ", changes.len(), of_first.len().max(of_second.len()));
        }
        Format::Json => {
            let changes: serde_json::Map<String, serde_json::Value> = changes
                .iter()
                .map(|(name, change)| {
                    let change = match change {
                        Change::OnlyFirst => serde_json::json!({ "only": first }),
                        Change::OnlySecond => serde_json::json!({ "only": second }),
                        Change::Differs(difference) => serde_json::json!({ "difference": difference }),
                    };
                    (name.clone(), change)
                })
                .collect();
            println!("{}", serde_json::json!({ "first": first, "second": second, "changes": changes }));
        }
    }
    Ok(if changes.is_empty() { Exit::Agree } else { Exit::Diverge })
}

fn read(folder: &Path, kernel: &str) -> Result<Timelines, Failure> {
    let path = folder.join(kernel);
    let snapshots = read_snapshots(&path).map_err(|source| Failure::File { path: path.clone(), source })?;
    if snapshots.is_empty() {
        return Err(Failure::usage(
            format!("{} holds no snapshots", path.display()),
            "the kernels that were run have a folder each in `snapshots`",
        ));
    }
    Ok(snapshots)
}
