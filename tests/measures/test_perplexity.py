"""Perplexity of training rows: by hand, by part, and of a model's own samples."""

import math

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import (
    perplexity,
    perplexity_by_arm,
    row_likelihood,
    skill_by_perplexity,
)
from cotlens.plots import plot_data_perplexity


def likelihood(*rows):
    """Rows of (prompt, nll, tokens), all of them of one part."""
    table = pd.DataFrame(rows, columns=["prompt_id", "nll", "n_tokens"])
    return table.assign(part="all", trace_id=table.index.astype(str))


def test_two_rows_by_hand():
    """2.0 nats on 4 tokens and 9.0 on 6: exp(1.1), and not the mean of 1.6487 and 4.4817."""
    estimate = perplexity(likelihood(("a", 2.0, 4), ("b", 9.0, 6)))
    assert estimate.value == pytest.approx(math.exp(1.1))
    assert estimate.value == pytest.approx(3.0042, abs=1e-4)
    assert (math.exp(0.5) + math.exp(1.5)) / 2 == pytest.approx(3.0652, abs=1e-4)
    assert (estimate.n, estimate.n_clusters) == (2, 2)


def tables(logprobs):
    """One trace of six characters: a thought of three in tags of one, and an answer of one.

    Each token is one character: "<", "a", "b", "c", ">", "d", and the end.
    """
    traces = pd.DataFrame(
        {
            "trace_id": ["t"],
            "prompt_id": ["p"],
            "think_spans": [[{"start": 1, "stop": 4}]],
            "answer_start": [5],
            "answer_stop": [6],
        }
    )
    starts = list(range(7))
    scores = pd.DataFrame(
        {
            "trace_id": ["t"],
            "error": [""],
            "token_starts": [starts],
            "word_starts": [starts],
            "entropy": [[0.0] * 7],
            "logprob": [logprobs],
        }
    )
    return traces, scores


def test_tags_and_the_end_belong_to_no_part():
    table = row_likelihood(*tables([-1.0, -2.0, -2.0, -2.0, -1.0, -3.0, -1.0]))
    rows = table.set_index("part")
    assert list(rows["nll"]) == [12, 6, 3]
    assert list(rows["n_tokens"]) == [7, 3, 1]
    assert rows.loc["thinking", "perplexity"] == pytest.approx(math.exp(2))


def test_unscored_tokens_are_left_out():
    table = row_likelihood(*tables([math.nan, -2.0, math.nan, -4.0, -1.0, -3.0, -1.0]))
    thinking = table[table["part"] == "thinking"].iloc[0]
    assert (thinking["nll"], thinking["n_tokens"]) == (6, 2)


def test_an_unknown_part_is_an_error():
    with pytest.raises(ValueError, match="expected a part of all, thinking, answer"):
        perplexity(likelihood(("a", 1.0, 1)), "thought")


def test_of_own_samples_the_log_is_the_entropy():
    """Tokens drawn from a distribution: the mean nll is its entropy within the interval."""
    rng = np.random.default_rng(0)
    p = np.array([0.5, 0.3, 0.2])
    entropy = -(p @ np.log(p))
    rows = []
    for number in range(400):
        words = rng.choice(3, size=20, p=p)
        rows.append((str(number), -np.log(p[words]).sum(), 20))
    estimate = perplexity(likelihood(*rows))
    assert math.log(estimate.low) < entropy < math.log(estimate.high)


# --- perplexity against skill --------------------------------------------------------------------


def test_each_arm_has_the_perplexity_of_its_own_rows():
    """exp(1.1) as above, and exp(3 / 2)."""
    one = likelihood(("a", 2.0, 4), ("b", 9.0, 6)).assign(arm="x")
    other = likelihood(("a", 3.0, 2)).assign(arm="y")
    table = perplexity_by_arm(pd.concat([one, other])).set_index("arm")
    assert table["value"].tolist() == pytest.approx([math.exp(1.1), math.exp(1.5)])
    assert table["n"].tolist() == [2, 1]


def changes(*numbers):
    return pd.DataFrame({"perplexity": [1.0, 2.0, 3.0, 9.0], "change": numbers})


def test_the_rank_correlation_by_hand():
    """Ranks 1 2 3 4 against 4 3 1 2: sum of squared differences 18, rho = 1 - 6 * 18 / 60 = -.8."""
    found = skill_by_perplexity(changes(0.4, 0.3, 0.1, 0.2))
    assert found.rho == pytest.approx(-0.8)
    assert found.n == 4


def test_ranks_alone_count():
    """The law: any rising scale of the perplexity gives the same."""
    table = changes(0.4, 0.3, 0.1, 0.2)
    logs = table.assign(perplexity=np.log(table["perplexity"]))
    assert skill_by_perplexity(logs) == skill_by_perplexity(table)


def test_two_arms_have_no_correlation():
    found = skill_by_perplexity(changes(0.4, 0.3, np.nan, np.nan))
    assert math.isnan(found.rho)
    assert found.n == 2


def test_the_figure_of_perplexity_and_skill():
    table = changes(0.4, 0.3, 0.1, 0.2).assign(arm=list("abcd"))
    for name in ("perplexity", "change"):
        table[f"{name}_low"] = table[name] - 0.1
        table[f"{name}_high"] = table[name] + 0.1
    plot = plot_data_perplexity(table)
    assert "rho -0.80 (n = 4 arms)" in plot.figure.get_supxlabel()
