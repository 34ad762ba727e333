"""Arms and seeds side by side: one row a sample, then measures, differences, confounds and claims.

study        Study: the folder of tables, written and read
collect      compare_runs: runs of arms and seeds become a study
samples      the samples of a run: one row a trace, with all that is known of it
training     what the trainers logged, update by update
arms         measures of each arm, and differences to the base
confounds    the same differences at equal length, outcome, text and split
claims       rules, fixed before any result was seen, that turn numbers into verdicts
"""

from cotlens.studies.arms import COLUMNS, Column, derive, differences, measures, splits
from cotlens.studies.claims import Claim, Evidence, Verdict, read_claims, verdicts
from cotlens.studies.collect import compare_runs
from cotlens.studies.confounds import confounds, recall_at_splits
from cotlens.studies.study import Study, is_study, write_study
from cotlens.studies.training import read_updates

__all__ = [
    "COLUMNS",
    "Claim",
    "Column",
    "Evidence",
    "Study",
    "Verdict",
    "compare_runs",
    "confounds",
    "derive",
    "differences",
    "is_study",
    "measures",
    "read_claims",
    "read_updates",
    "recall_at_splits",
    "splits",
    "verdicts",
    "write_study",
]
