"""With and without thinking: the same prompts answered after a thought and after an empty one."""

import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need_columns

_COLUMNS = [
    "group",
    "value",
    "low",
    "high",
    "n",
    "with_thinking",
    "without_thinking",
    "only_with",
    "only_without",
    "p_value",
    "n_unpaired",
]


def thinking_effect(
    table: pd.DataFrame, *, verdict: str = "is_safe", by: str | None = None
) -> pd.DataFrame:
    """The difference that thinking makes to a flag, paired by prompt.

    Samples without thinking come from a chat template that closes an empty thought, or from such a
    thought as prefill. A model that never saw one is off its distribution there, and the difference
    measures that as well.

    Args:
        table: one row per trace, with prompt_id, `thinking` (whether it thinks) and the flag; one
            trace of each prompt with and one without thinking.
        verdict: column of flags; a missing one leaves its pair out.
        by: column of the group (an arm, say); None: all rows are one.

    Returns:
        One row per group:

        - `value`, `low`, `high`: share with thinking less share without, with an interval over
          prompts; `n`: prompts with both flags;
        - `with_thinking`, `without_thinking`: the two shares on these prompts;
        - `only_with`, `only_without`: prompts where the flag is true in that condition alone;
        - `p_value`: exact McNemar test of the two;
        - `n_unpaired`: prompts that lack one of the two flags.

    Raises:
        ValueError: if a column is missing, or a prompt has two traces of a condition.
    """
    need_columns(table, "prompt_id", "thinking", verdict)
    if by is None:
        by = "group"
        table = table.assign(group="all")
    need_columns(table, by)

    rows = []
    for name, of_group in table.groupby(by, sort=False, dropna=False, observed=True):
        group = str(name) or "(unnamed)"
        rows.append({"group": group, **_effect(group, of_group, verdict)})
    return pd.DataFrame(rows, columns=_COLUMNS)


def _effect(group: str, table: pd.DataFrame, verdict: str) -> dict[str, float]:
    thinks = table["thinking"].astype(bool)
    key = [table["prompt_id"], thinks.rename("thinking")]
    counts = table.groupby(key).size()
    repeated = counts[counts > 1]
    if len(repeated):
        prompt, is_with = repeated.index[0]
        condition = "with" if is_with else "without"
        raise ValueError(
            f"{group}: expected one trace per prompt and condition, got {repeated.iloc[0]} of "
            f"prompt {prompt!r} {condition} thinking; the test takes prompts as independent, so "
            "keep one sample of each"
        )

    # A column for each condition; a prompt without both flags makes no pair.
    flags = table.assign(thinking=thinks, flag=table[verdict].astype(float))
    both = flags.pivot(index="prompt_id", columns="thinking", values="flag")
    both = both.reindex(columns=[True, False])
    paired = both.dropna()
    pairs = stats.mcnemar(paired[True], paired[False], paired.index)
    return {
        "value": pairs.difference.value,
        "low": pairs.difference.low,
        "high": pairs.difference.high,
        "n": len(paired),
        "with_thinking": paired[True].mean(),
        "without_thinking": paired[False].mean(),
        "only_with": pairs.only_first,
        "only_without": pairs.only_second,
        "p_value": pairs.p_value,
        "n_unpaired": len(both) - len(paired),
    }
