//! A comparison of two kernels: the clusters of what differs, and whom the model sides with.

use std::time::Duration;

use ptediff_reference_model::verdict::Verdict;

use crate::exit_code::Exit;
use crate::host::session::describe;
use crate::pair::{Machines, PairCluster, Paired};

use super::explanation::explanation_text;
use super::timeline::verdict_line;

/// The exit code: 1 for a difference that is stable, 125 where nothing could be compared or one is unstable.
#[must_use]
pub fn exit(paired: &Paired) -> Exit {
    if paired.clusters.iter().any(is_stable) {
        Exit::Diverge
    } else if !paired.clusters.is_empty() || paired.programs == paired.incomplete {
        Exit::CannotTell
    } else {
        Exit::Agree
    }
}

fn is_stable(cluster: &PairCluster) -> bool {
    cluster.stability.0 == cluster.stability.1
}

/// Whom the model sides with.
fn side(cluster: &PairCluster) -> &'static str {
    let agrees = |verdict: &Verdict| *verdict == Verdict::Agree;
    match (agrees(&cluster.verdicts[0]), agrees(&cluster.verdicts[1])) {
        (true, true) => "both, each judged as its own version",
        (true, false) => "the base",
        (false, true) => "the new one",
        (false, false) => "neither",
    }
}

/// Prints it.
pub fn print(machines: &Machines, paired: &Paired, took: Duration) {
    println!("base         {}: {}", machines.base.kernel, describe(&paired.machines[0]));
    println!("new          {}: {}", machines.new.kernel, describe(&paired.machines[1]));
    println!(
        "programs     {} on both, {} of them not compared to the end; {:.1} s",
        paired.programs,
        paired.incomplete,
        took.as_secs_f64()
    );
    for cluster in &paired.clusters {
        let (same, reruns) = cluster.stability;
        let stability = if same == reruns { "stable" } else { "UNSTABLE" };
        println!("\nDIFFERENCE   {}", cluster.difference.text());
        println!("shown by     {} programs, the first {}", cluster.members.len(), cluster.members[0]);
        println!("stability    {stability}: {same} of {reruns} re-runs on both part in the same way");
        for (number, step) in cluster.program.steps.iter().enumerate() {
            println!("  {number:>2}  {step}");
        }
        let [base, new] = &cluster.records;
        println!("  base gives {}, new gives {}", base.outcome, new.outcome);
        println!("the model    sides with {}", side(cluster));
        for (name, verdict) in [("base", &cluster.verdicts[0]), ("new", &cluster.verdicts[1])] {
            println!("  {name}: {}", verdict_line(verdict));
            if let Verdict::Diverge(divergence) = verdict {
                println!("    explained {}", explanation_text(&divergence.explanation));
            }
        }
    }
    println!("\n{} clusters", paired.clusters.len());
    println!("exit         {} ({})", exit(paired) as u8, meaning(paired));
}

fn meaning(paired: &Paired) -> &'static str {
    match exit(paired) {
        Exit::Agree => "no difference",
        Exit::Diverge => "they differ",
        other => other.meaning(),
    }
}

/// The same as JSON.
#[must_use]
pub fn json(machines: &Machines, paired: &Paired, took: Duration) -> serde_json::Value {
    let clusters: Vec<_> = paired
        .clusters
        .iter()
        .map(|cluster| {
            serde_json::json!({
                "difference": cluster.difference,
                "programs": cluster.members,
                "stable": is_stable(cluster),
                "program": cluster.program,
                "step": cluster.step,
                "base": { "record": cluster.records[0], "verdict": cluster.verdicts[0] },
                "new": { "record": cluster.records[1], "verdict": cluster.verdicts[1] },
                "model": side(cluster),
            })
        })
        .collect();
    serde_json::json!({
        "base": { "kernel": machines.base.kernel, "machine": paired.machines[0] },
        "new": { "kernel": machines.new.kernel, "machine": paired.machines[1] },
        "programs": paired.programs,
        "incomplete": paired.incomplete,
        "seconds": took.as_secs_f64(),
        "clusters": clusters,
        "exit": exit(paired) as u8,
    })
}
