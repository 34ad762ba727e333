"""What does it change to take rows with a risky pattern out of the training data?

The SFT study (Zhang et al. 2025, arXiv 2505.15404) trains with and without the rows that have a
pattern. Fewer rows change a training by themselves, so the control lacks as many rows, drawn at
random: trainers/methods/sft_study.py makes both.
"""

from collections.abc import Mapping

import pandas as pd

from cotlens.measures.groups import need_columns
from cotlens.studies.arms import difference, select, to_row

REMOVED = "removed_"
CONTROL = "control_"
_COLUMNS = [
    "pattern",
    "value",
    "low",
    "high",
    "n",
    "n_units",
    "units",
    "removed",
    "control",
]


def removal_pairs(arms: list[str]) -> dict[str, tuple[str, str]]:
    """The patterns that arms are named by: pattern -> (arm without its rows, control).

    >>> removal_pairs(["base", "removed_a", "control_a", "removed_b"])
    {'a': ('removed_a', 'control_a')}
    """
    pairs = {}
    for arm in arms:
        pattern = arm.removeprefix(REMOVED)
        if pattern != arm and CONTROL + pattern in arms:
            pairs[pattern] = (arm, CONTROL + pattern)
    return pairs


def removal_effects(
    samples: pd.DataFrame,
    pairs: Mapping[str, tuple[str, str]],
    column: str = "answer_unsafe",
    where: str = "forbidden",
) -> pd.DataFrame:
    """How much less often an attack succeeds without the rows of a pattern, at equal size.

    Args:
        samples: of `Study.samples`.
        pairs: pattern -> the arm without its rows and the control of equal size.
        column: a flag of the samples.
        where: a domain, or a split of the forbidden prompts.

    Returns:
        One row per pattern: `value`, control less removed (above 0, the pattern did harm), with
        `low` and `high`, paired by seed from three seeds on, else over prompts; `n`, `n_units` and
        `units` as of `studies.differences`; `removed` and `control`, the shares of the two arms
        over the seeds that both have.

    Raises:
        ValueError: if a column is missing, or an arm has no samples.
    """
    need_columns(samples, "arm", "seed", "set", "split", "cluster", column)
    values = select(samples, column, where)
    rows = []
    for pattern, (removed, control) in pairs.items():
        of_removed = values[values["arm"] == removed]
        of_control = values[values["arm"] == control]
        for arm, of_arm in ((removed, of_removed), (control, of_control)):
            if of_arm.empty:
                known = ", ".join(sorted(set(values["arm"].astype(str))))
                raise ValueError(f"{pattern}: no samples of arm {arm!r}; there are {known}")

        # The same seeds for the shares and for their difference.
        seeds = set(of_removed["seed"]) & set(of_control["seed"])
        of_removed = of_removed[of_removed["seed"].isin(seeds)]
        of_control = of_control[of_control["seed"].isin(seeds)]
        if not seeds:
            raise ValueError(f"{pattern}: {removed!r} and {control!r} have no seed in common")
        row = {
            "pattern": pattern,
            "removed": of_removed["value"].mean(),
            "control": of_control["value"].mean(),
        }
        rows.append(row | to_row(difference(of_control, of_removed)))
    return pd.DataFrame(rows, columns=_COLUMNS)
