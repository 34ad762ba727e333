"""The prefill matrix and the curve of resets, by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens import stats
from cotlens.measures import (
    by_length,
    donor_effects,
    prefill_matrix,
    reset_curve,
    susceptibility,
)
from cotlens.measures.prefill import probe_name


def cell(donor, recipient, n_safe, n=20, words=200, prompts=20):
    """Traces of a cell, the first of them safe, one a prompt."""
    rows = []
    for number in range(n):
        rows.append(
            {
                "trace_id": f"{donor}-{recipient}-{words}-{number}",
                "prompt_id": f"p{number % prompts}",
                "model": recipient,
                "method": "",
                "kind": "prefill",
                "donor": donor,
                "words": words if donor != "none" else 0,
                "is_safe": number < n_safe,
            }
        )
    return rows


def flags_of(rows):
    table = pd.DataFrame(rows)
    return table.astype({"is_safe": "boolean"})


def example():
    """Clean .80 and .60; after donor A .40 and .30, after B .90 and .75."""
    safe = {
        ("none", "r"): 16, ("none", "s"): 12, ("A", "r"): 8, ("A", "s"): 6, ("B", "r"): 18,
        ("B", "s"): 15,
    }  # fmt: skip
    rows = []
    for (donor, recipient), n_safe in safe.items():
        rows += cell(donor, recipient, n_safe)
    return flags_of(rows)


# --- matrix --------------------------------------------------------------------------------------


def test_the_matrix_by_hand():
    matrix = prefill_matrix(example()).set_index(["donor", "recipient"])
    assert matrix["value"].to_dict() == {
        ("none", "r"): 0.8, ("none", "s"): 0.6, ("A", "r"): 0.4, ("A", "s"): 0.3, ("B", "r"): 0.9,
        ("B", "s"): 0.75,
    }  # fmt: skip
    donors = matrix[matrix.index.get_level_values("donor") != "none"]
    assert donors["delta"].tolist() == pytest.approx([-0.4, -0.3, 0.1, 0.15])
    assert donors["relative"].tolist() == pytest.approx([-0.5, -0.5, 0.125, 0.25])
    assert donors["clean"].tolist() == [0.8, 0.6, 0.8, 0.6]
    assert set(matrix["n"]) == set(donors["n_paired"]) == {20}
    plain = matrix[matrix.index.get_level_values("donor") == "none"]
    assert plain[["delta", "clean", "relative"]].isna().all(axis=None)


def test_means_of_rows_and_columns_by_hand():
    effects = donor_effects(example()).set_index("donor")
    assert effects["value"].to_dict() == pytest.approx({"A": -0.35, "B": 0.125})
    assert effects["relative"].to_dict() == pytest.approx({"A": -0.5, "B": 0.1875})
    assert effects[["n", "n_prompts", "n_cells"]].to_numpy().tolist() == [[80, 20, 2]] * 2

    of_recipients = susceptibility(example()).set_index("recipient")
    assert of_recipients["value"].to_dict() == pytest.approx({"r": -0.15, "s": -0.075})
    assert of_recipients["n"].to_dict() == {"r": 60, "s": 60}


def test_delta_is_the_difference_of_stats():
    table = example()
    row = prefill_matrix(table).set_index(["donor", "recipient"]).loc[("A", "r")]
    of_recipient = table[table["model"] == "r"]
    injected = of_recipient[of_recipient["donor"] == "A"]
    plain = of_recipient[of_recipient["donor"] == "none"]
    known = stats.difference(
        injected["is_safe"], plain["is_safe"], injected["prompt_id"], plain["prompt_id"]
    )
    assert [row["delta"], row["delta_low"], row["delta_high"]] == pytest.approx(list(known[:3]))


def test_a_mean_over_one_cell_is_its_delta():
    table = example()
    table = table[table["model"] == "r"]
    matrix = prefill_matrix(table).set_index("donor")
    effects = donor_effects(table).set_index("donor")
    for column, of_cell in {"value": "delta", "low": "delta_low", "high": "delta_high"}.items():
        for donor in ("A", "B"):
            assert effects.loc[donor, column] == matrix.loc[donor, of_cell]


def test_only_prompts_of_both_sides_are_compared():
    """The donor has prompts 0 to 9, all but two safe; of these ten the plain samples are all safe."""
    table = flags_of([*cell("none", "r", 10), *cell("A", "r", 8, n=10)])
    row = prefill_matrix(table).set_index("donor").loc["A"]
    assert (row["value"], row["clean"], row["n_paired"]) == (0.8, 1.0, 10)
    assert row["delta"] == pytest.approx(-0.2)


def test_an_unknown_verdict_is_left_out_on_both_sides_and_counted():
    table = example()
    is_gone = (table["donor"] == "A") & (table["prompt_id"] == "p0")
    table["is_safe"] = table["is_safe"].mask(is_gone)
    row = prefill_matrix(table).set_index(["donor", "recipient"]).loc[("A", "r")]
    assert (row["n"], row["n_undefined"], row["n_paired"]) == (19, 1, 19)
    # Without the first prompt, which is safe on both sides: 7/19 and 15/19.
    assert row["delta"] == pytest.approx(-8 / 19)


def test_what_was_never_safe_has_no_relative_delta():
    rows = [*cell("none", "r", 0), *cell("A", "r", 4), *cell("none", "s", 10), *cell("A", "s", 5)]
    table = flags_of(rows)
    matrix = prefill_matrix(table).set_index(["donor", "recipient"])
    assert np.isnan(matrix.loc[("A", "r"), "relative"])
    assert matrix.loc[("A", "r"), "delta"] == pytest.approx(0.2)
    (effect,) = donor_effects(table).to_dict("records")
    assert (effect["n_undefined"], effect["n_undefined_relative"]) == (0, 1)
    assert effect["relative"] == pytest.approx(-0.5)
    assert effect["value"] == pytest.approx((0.2 - 0.25) / 2)


def test_without_plain_samples_nothing_is_compared():
    table = flags_of([*cell("A", "r", 4), *cell("none", "s", 10), *cell("A", "s", 5)])
    matrix = prefill_matrix(table).set_index(["donor", "recipient"])
    assert matrix.loc[("A", "r"), "value"] == 0.2
    assert np.isnan(matrix.loc[("A", "r"), "delta"])
    assert matrix.loc[("A", "r"), "n_paired"] == 0
    (effect,) = donor_effects(table).to_dict("records")
    assert (effect["value"], effect["n_cells"], effect["n_undefined"]) == (-0.25, 2, 1)
    alone = susceptibility(table).set_index("recipient")
    assert np.isnan(alone.loc["r", "value"])
    assert alone.loc["r", "n"] == 0


def test_every_recipient_has_one_weight_whatever_its_samples():
    """Delta -.40 on 20 rows and -.30 on 40: the mean is -.35."""
    table = example()
    table = table[table["donor"] != "B"]
    again = table[(table["model"] == "s")]
    doubled = pd.concat([table, again], ignore_index=True)
    (effect,) = donor_effects(doubled).to_dict("records")
    assert effect["value"] == pytest.approx(-0.35)


def test_a_recipient_is_named_by_model_and_method():
    assert probe_name("m", "grpo") == "m/grpo"
    assert probe_name("", "grpo") == "grpo"
    assert probe_name("m", "") == "m"
    table = example().assign(method="grpo")
    assert set(prefill_matrix(table)["recipient"]) == {"r/grpo", "s/grpo"}
    assert set(prefill_matrix(table.assign(recipient="x"))["recipient"]) == {"x"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("words", r"several words \(100, 200\)"),
        ("steps", r"several steps \(100, 200\)"),
        ("kind", r"several kind \(100, 200\)"),
        ("round", r"several round \(100, 200\)"),
    ],
)
def test_traces_that_do_not_belong_together_are_refused(column, message):
    table = example()
    table[column] = np.where(np.arange(len(table)) % 2, 100, 200)
    with pytest.raises(ValueError, match=message):
        prefill_matrix(table)


def test_plain_samples_serve_every_kind():
    table = example()
    of_reset = table.assign(kind=table["kind"].mask(table["donor"] != "none", "reset"))
    pd.testing.assert_frame_equal(prefill_matrix(of_reset), prefill_matrix(table))


@pytest.mark.parametrize("column", ["prompt_id", "donor", "is_safe", "model"])
def test_a_missing_column_is_named(column):
    with pytest.raises(ValueError, match=f"no column {column}"):
        prefill_matrix(example().drop(columns=column))


# --- lengths -------------------------------------------------------------------------------------


def test_lines_over_lengths_begin_at_the_plain_samples():
    rows = [*cell("none", "r", 16), *cell("A", "r", 8, words=100), *cell("A", "r", 4, words=200)]
    lengths = by_length(flags_of(rows))
    assert lengths[["words", "donor"]].to_numpy().tolist() == [[0, "A"], [100, "A"], [200, "A"]]
    assert lengths["value"].tolist() == [0.8, 0.4, 0.2]
    assert lengths["delta"].tolist() == pytest.approx([np.nan, -0.4, -0.6], nan_ok=True)


def test_a_length_alone_is_the_matrix():
    table = example()
    alone = by_length(table)
    matrix = prefill_matrix(table)
    expected = matrix[matrix["donor"] != "none"].reset_index(drop=True)
    of_length = alone[alone["words"] == 200].drop(columns="words").reset_index(drop=True)
    pd.testing.assert_frame_equal(of_length, expected)


def test_lengths_without_plain_samples_have_no_beginning():
    rows = [*cell("A", "r", 8, words=100), *cell("A", "r", 4, words=200)]
    lengths = by_length(flags_of(rows))
    assert lengths["words"].tolist() == [100, 200]
    with pytest.raises(ValueError, match="no trace has a donor"):
        by_length(flags_of(cell("none", "r", 8)))


# --- resets --------------------------------------------------------------------------------------


def rounds(*flags, recipient="r"):
    """Chains of one prompt each: one flag per chain for each round; None is unknown."""
    rows = []
    for number, of_round in enumerate(flags):
        for chain, flag in enumerate(of_round):
            rows.append(
                {
                    "prompt_id": f"p{chain}",
                    "recipient": recipient,
                    "donor": "A",
                    "chain": f"c{chain}",
                    "round": number,
                    "is_safe": flag,
                }
            )
    return flags_of(rows)


def test_the_curve_by_hand():
    """Flags 1110, 1100, 1100 of four prompts: .75 .50 .50, and .50 in all rounds."""
    curve = reset_curve(rounds([1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]))
    assert curve["round"].tolist() == [0, 1, 2]
    assert curve["value"].tolist() == [0.75, 0.5, 0.5]
    assert curve["persistent"].tolist() == [0.75, 0.5, 0.5]
    assert set(curve["n"]) == set(curve["n_prompts"]) == set(curve["n_chains"]) == {4}


def test_persistent_is_not_the_least_round():
    """One chain falls while another recovers: .75 in both rounds, .50 in both of them."""
    curve = reset_curve(rounds([1, 1, 1, 0], [0, 1, 1, 1]))
    assert curve["value"].tolist() == [0.75, 0.75]
    assert curve["persistent"].tolist() == [0.75, 0.5]


def test_persistent_never_rises_and_is_at_most_every_round():
    rng = np.random.default_rng(0)
    flags = rng.random((5, 40)) < 0.8
    curve = reset_curve(rounds(*flags.tolist()))
    assert curve["persistent"].is_monotonic_decreasing
    assert (curve["persistent"] <= curve["value"]).all()
    assert curve["persistent"].iloc[-1] == flags.all(axis=0).mean()


def test_unknown_rounds():
    """Unknown then safe: not known. Unknown then unsafe: unsafe. Unsafe then unknown: unsafe."""
    curve = reset_curve(rounds([None, None, 0, 1], [1, 0, None, 1]))
    assert curve["n"].tolist() == [2, 3]
    assert curve["n_undefined"].tolist() == [2, 1]
    assert curve["n_chains"].tolist() == [2, 3]
    assert curve["n_unknown"].tolist() == [2, 1]
    assert curve["persistent"].tolist() == pytest.approx([1 / 2, 1 / 3])


def test_a_chain_without_a_round_is_unknown_in_it():
    table = rounds([1, 1], [1, 1])
    curve = reset_curve(table[:-1])
    assert curve["n"].tolist() == [2, 1]
    assert curve["n_unknown"].tolist() == [0, 1]


def test_round_0_is_the_cell_of_the_matrix():
    table = rounds([1, 1, 1, 0], [1, 1, 0, 0])
    row = reset_curve(table).iloc[0]
    (of_matrix,) = prefill_matrix(table[table["round"] == 0]).to_dict("records")
    for column in ("value", "low", "high", "n", "n_prompts"):
        assert row[column] == of_matrix[column]


def test_recipients_may_have_chains_of_one_name():
    both = pd.concat([rounds([1, 0]), rounds([0, 0], recipient="s")], ignore_index=True)
    assert reset_curve(both)["value"].tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="the chain 'c0' has the round 0 twice"):
        reset_curve(pd.concat([both, both]))
