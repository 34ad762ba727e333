"""What arms took: means over seeds, and what is not known."""

import math

import pandas as pd

from cotlens.studies.cost import COSTS, cost_by_arm


def test_costs_are_means_over_seeds_and_unknown_ones_are_missing():
    """GRPO: 100 and 300 sampled, 200 and 400 trained: 500 tokens in all; SFT trained 100 and sampled none that is known."""
    cost = pd.DataFrame(
        {
            "arm": ["grpo", "grpo", "sft"], "seed": [0, 1, 0], "sampled_tokens": [100, 300, None],
            "trained_tokens": [200, 400, 100], "guard_calls": [64, 66, None], "cpu_seconds_of_last_start": [10.0, 20, 5],
        }
    )  # fmt: skip
    found = cost_by_arm(cost).set_index("arm")
    assert list(found.columns) == ["n_seeds", *COSTS, "total_tokens"]
    grpo = found.loc["grpo"]
    assert grpo[["n_seeds", "guard_calls", "total_tokens", "cpu_seconds"]].tolist() == [
        2,
        65,
        500,
        15,
    ]
    sft = found.loc["sft"]
    assert sft["total_tokens"] == 100
    assert math.isnan(sft["guard_calls"])
    assert math.isnan(sft["updates"])
