"""Where steps lie: sums by trace that are the same however the steps are split."""

import numpy as np
import pandas as pd
import pytest
from places import SAMPLES

from cotlens import Run, analyze, draw_figures, stats
from cotlens.detect.unsafe import MARKERS
from cotlens.measures.places import Places, reflection_places, unsafe_places
from cotlens.stats.bootstrap import _draw_counts


def steps_by_hand():
    """Trace a: steps at 0.1, 0.4, 0.9, the second and third reflect; b: at 1, it does not; c: unknown."""
    rows = [
        ("a", "p", 0.1, False),
        ("a", "p", 0.4, True),
        ("a", "p", 0.9, True),
        ("b", "q", 1.0, False),
        ("c", "q", 0.5, None),
    ]
    return pd.DataFrame(rows, columns=["trace_id", "prompt_id", "position", "is_reflection"])


def test_steps_are_counted_by_trace_and_half():
    """Of two halves: a has two steps in the first, one in the second; b one in the second."""
    places = reflection_places(steps_by_hand(), bins=2)
    assert places.traces["trace_id"].tolist() == ["a", "b"]
    assert places.traces["first_reflects"].tolist() == [False, False]
    assert places.n.tolist() == [[2, 1], [0, 1]]
    assert places.flagged["reflects"].tolist() == [[1, 1], [0, 0]]


def test_unsafe_steps_are_counted_and_excuses_only_there():
    """Of a's steps the second is unsafe and excuses; the first excuses too, and is not unsafe."""
    steps = steps_by_hand().assign(**{marker.value: False for marker in MARKERS})
    steps["is_self_jailbreak"] = [True, True, False, False, None]
    steps["is_unsafe"] = [False, True, False, True, None]
    steps["benign_reframing"] = [True, True, False, False, None]
    places = unsafe_places(steps, bins=2)
    assert places.flagged["unsafe"].tolist() == [[1, 0], [0, 1]]
    assert places.flagged["is_self_jailbreak"].tolist() == [[1, 0], [0, 0]]
    assert places.traces["any_benign_reframing"].tolist() == [True, False]
    assert places.traces["first_unsafe"].tolist() == [False, True]


def test_places_of_parts_are_those_of_the_whole():
    steps = steps_by_hand()
    whole = reflection_places(steps, columns=())
    is_a = steps["trace_id"] == "a"
    parts = [reflection_places(steps[rows], columns=()) for rows in (is_a, ~is_a)]
    joined = Places.join(parts)
    pd.testing.assert_frame_equal(joined.traces, whole.traces)
    assert np.array_equal(joined.n, whole.n)

    # Of some traces alone, with their groups; the order stays.
    groups = pd.DataFrame({"trace_id": ["b", "x"], "model": ["m", "n"]})
    of_b = joined.of(groups)
    assert of_b.traces["model"].tolist() == ["m"]
    assert of_b.n.sum() == 1


def test_a_curve_of_sums_is_the_curve_of_the_steps():
    """300 steps of 40 traces on 15 prompts: the same numbers, to the last bit."""
    rng = np.random.default_rng(0)
    trace = np.sort(rng.integers(0, 40, 300))
    steps = pd.DataFrame(
        {
            "trace_id": trace.astype(str),
            "prompt_id": (trace % 15).astype(str),
            "position": rng.random(300),
            "is_reflection": rng.random(300) < 0.3,
        }
    )
    flags = steps["is_reflection"].astype(float)
    expected = stats.curve(steps["position"], flags, steps["prompt_id"], bins=10)
    places = reflection_places(steps, 10)
    pd.testing.assert_frame_equal(places.curve("reflects", places.traces), expected)


@pytest.mark.parametrize("size", [50, 1500])
def test_each_draw_is_as_large_as_the_sample(size):
    """The counts of a draw sum to the clusters; their variance is 1 - 1/n, as a multinomial's."""
    counts = _draw_counts(np.random.default_rng(0), [size, 3], 400)
    assert (counts[:, :size].sum(axis=1) == size).all()
    assert (counts[:, size:].sum(axis=1) == 3).all()
    assert counts[:, :size].var() == pytest.approx(1 - 1 / size, rel=0.05)


def test_figures_do_not_depend_on_shards(tmp_path, monkeypatch):
    """The samples in one shard, and in shards of four traces: the same bytes."""
    draw_figures([analyze([SAMPLES], tmp_path / "run")], tmp_path / "one", say=str)
    monkeypatch.setattr("cotlens.runs.analyze.SHARD_TRACES", 4)
    run = analyze([SAMPLES], tmp_path / "run", force=True)
    assert len(Run(run.path).shards("steps")) > 1
    draw_figures([run], tmp_path / "many", say=str)

    files = [path for path in (tmp_path / "one").rglob("*.*") if path.is_file()]
    assert files
    for path in files:
        other = tmp_path / "many" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name
