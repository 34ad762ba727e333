"""Arms and seeds side by side: one row a sample, then measures, differences, confounds and claims.

study        Study: the folder of tables, written and read
collect      compare_runs: runs of arms and seeds become a study
samples      the samples of a run: one row a trace, with all that is known of it
training     what the trainers logged, update by update
arms         measures of each arm, and differences to the base
confounds    the same differences at equal length, outcome, text and split
frontier     arms at equal unsafe rate, and at equal KL to the base
removals     what it changes to take rows with a pattern out of the training data
cost         tokens, samples, calls of the guard, processor seconds by arm
rules        how a difference becomes a verdict
claims       claims that were fixed before any result was seen, and their verdicts
"""

from cotlens.studies.arms import COLUMNS, Column, derive, differences, measures, splits
from cotlens.studies.claims import (
    Claim,
    Evidence,
    Verdict,
    read_claims,
    register_claims,
    verdicts,
)
from cotlens.studies.collect import compare_runs
from cotlens.studies.confounds import confounds, recall_at_splits
from cotlens.studies.cost import COSTS, cost_by_arm
from cotlens.studies.frontier import equal_level_gaps
from cotlens.studies.removals import removal_effects, removal_pairs
from cotlens.studies.study import Study, is_study, seeds_apart, write_study
from cotlens.studies.training import read_updates

__all__ = [
    "COLUMNS",
    "COSTS",
    "Claim",
    "Column",
    "Evidence",
    "Study",
    "Verdict",
    "compare_runs",
    "confounds",
    "cost_by_arm",
    "derive",
    "differences",
    "equal_level_gaps",
    "is_study",
    "measures",
    "read_claims",
    "read_updates",
    "recall_at_splits",
    "register_claims",
    "removal_effects",
    "removal_pairs",
    "seeds_apart",
    "splits",
    "verdicts",
    "write_study",
]
