"""The paired difference that thinking makes, by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import thinking_effect


def prompts(n_both, n_only_with, n_only_without, n_neither, **columns):
    flags = [(1, 1)] * n_both + [(1, 0)] * n_only_with + [(0, 1)] * n_only_without
    flags += [(0, 0)] * n_neither
    rows = []
    for number, pair in enumerate(flags):
        for thinking, flag in zip((True, False), pair, strict=True):
            rows.append({"prompt_id": f"p{number}", "thinking": thinking, "is_safe": bool(flag)})
    return pd.DataFrame(rows).assign(**columns)


def test_forty_prompts_by_hand():
    """Six are safe only with thinking, two only without: 4/40 = .10; 2 P(X <= 2 of 8) = .289."""
    (row,) = thinking_effect(prompts(20, 6, 2, 12)).to_dict("records")
    assert row["value"] == pytest.approx(0.10)
    assert row["p_value"] == pytest.approx(2 * (1 + 8 + 28) / 256)
    assert row["p_value"] == pytest.approx(0.289, abs=5e-4)
    assert (row["n"], row["only_with"], row["only_without"], row["n_unpaired"]) == (40, 6, 2, 0)
    assert row["with_thinking"] - row["without_thinking"] == pytest.approx(row["value"])
    assert row["low"] < 0.1 < row["high"]


def test_turned_about_only_the_sign_changes():
    (there,) = thinking_effect(prompts(20, 6, 2, 12)).to_dict("records")
    table = prompts(20, 6, 2, 12).assign(thinking=lambda rows: ~rows["thinking"])
    (back,) = thinking_effect(table).to_dict("records")
    assert back["value"] == pytest.approx(-there["value"])
    assert back["p_value"] == there["p_value"]


def test_order_and_other_flags_do_not_matter():
    table = prompts(5, 3, 1, 2).rename(columns={"is_safe": "is_right"})
    shuffled = table.sample(frac=1, random_state=0)
    left = thinking_effect(table, verdict="is_right").drop(columns=["low", "high"])
    right = thinking_effect(shuffled, verdict="is_right").drop(columns=["low", "high"])
    pd.testing.assert_frame_equal(left, right)


def test_a_missing_flag_leaves_its_pair_out():
    table = prompts(2, 1, 0, 1).astype({"is_safe": object})
    table.loc[0, "is_safe"] = None
    (row,) = thinking_effect(table.iloc[:-1]).to_dict("records")
    assert (row["n"], row["n_unpaired"]) == (2, 2)


def test_no_pair_is_no_number():
    table = prompts(2, 0, 0, 0)
    (row,) = thinking_effect(table[table["thinking"]]).to_dict("records")
    assert (row["n"], row["n_unpaired"], row["p_value"]) == (0, 2, 1)
    assert np.isnan(row["value"])


def test_arms_are_apart():
    table = pd.concat([prompts(1, 1, 0, 0, arm="b"), prompts(1, 0, 1, 0, arm="a")])
    effect = thinking_effect(table, by="arm")
    assert dict(zip(effect["group"], effect["value"], strict=True)) == {"b": 0.5, "a": -0.5}


def test_two_samples_of_a_prompt_are_an_error():
    table = pd.concat([prompts(1, 0, 0, 0)] * 2)
    with pytest.raises(ValueError, match="got 2 of prompt 'p0'"):
        thinking_effect(table)
