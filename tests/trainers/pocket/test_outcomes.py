"""Tables of arms with own data: with and without thinking, likelihood of rows, all nine systems."""

from types import SimpleNamespace

import pandas as pd
import pytest
from tiny_pocket import tiny_plan

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens.formats.read import read_traces
from trainers.pocket.arms import COMPARED, INTERVENING, METHODS, OWN
from trainers.pocket.base import load_base
from trainers.pocket.jobs import Job, make_setting, run_job
from trainers.pocket.nine_figures import MAIN, PANELS, nine_table
from trainers.pocket.outcomes import DONE, main
from trainers.pocket.plan import check_plan
from trainers.pocket.report import collect_nine, draw

PLAN = tiny_plan()

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A base and an arm of RLVR's kind that have learned next to nothing, and their tables."""
    out = tmp_path_factory.mktemp("pocket")
    check_plan(out, PLAN)
    for arm in ("base", "benign_sft"):
        run_job(out, Job(0, arm), PLAN)
    main([str(out), "--seed", "0"])
    return out


def read(out, arm, name):
    return pd.read_parquet(out / "seed=0" / arm / f"{name}.parquet")


def test_each_prompt_is_asked_once_in_either_condition(out):
    """Four forbidden requests that were seen and four sums: 8 prompts, 16 rows."""
    table = read(out, "benign_sft", "thinking")
    counts = table.groupby(["domain", "thinking"]).size()
    assert counts.to_dict() == {
        ("forbidden", False): 4,
        ("forbidden", True): 4,
        ("maths", False): 4,
        ("maths", True): 4,
    }

    # With thinking it is what the arm was measured by.
    truth = read(out, "benign_sft", "truth").set_index("prompt_id")
    with_thinking = table[table["thinking"]].set_index("prompt_id")
    for prompt, row in with_thinking.iterrows():
        is_good = truth.loc[prompt, "is_correct"]
        if row["domain"] == "forbidden":
            is_good = not truth.loc[prompt, "answer_unsafe"]
        assert row["is_good"] == bool(is_good)


def test_likelihood_is_the_loss_of_transformers_times_its_tokens(out):
    import torch

    setting = make_setting(out, Job(0, "benign_sft"), PLAN)
    network, tokenizer = load_base(setting.folder / "base" / "model")
    from trainers.methods.selfgen import as_trace

    # The first row that was kept.
    kept = next(iter(read_traces(setting.own / "rows.parquet")))
    row = {"prompt": kept.prompt, "completion": kept.completion, "prompt_id": "0"}
    trace = as_trace(tokenizer, row, "0")
    ids = torch.tensor([[*trace.prompt_token_ids, *trace.token_ids]])
    labels = ids.clone()
    labels[0, : len(trace.prompt_token_ids)] = -100
    with torch.no_grad():
        loss = float(network(input_ids=ids, labels=labels).loss)

    table = read(out, "benign_sft", "likelihood")
    first = table[table["part"] == "all"].iloc[0]
    assert first["n_tokens"] == len(trace.token_ids)
    assert first["nll"] == pytest.approx(loss * len(trace.token_ids), rel=1e-4)
    assert kept.prompt not in set(table["prompt_id"])


def test_an_arm_without_rows_has_no_likelihood_and_is_not_asked_again(out, capsys):
    assert not (out / "seed=0" / "base" / "likelihood.parquet").exists()
    before = (out / "seed=0" / "base" / DONE).stat().st_mtime_ns
    main([str(out), "--seed", "0"])
    assert (out / "seed=0" / "base" / DONE).stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


def test_the_study_of_nine_is_drawn(out, tmp_path):
    study = collect_nine(out, tmp_path / "study")
    assert list(study.info["arms"]) == ["base", "benign_sft"]
    names = {path.stem for path in draw(study, tmp_path / "figures") if path.suffix == ".png"}
    assert {"overview", "drift", "thinking_forbidden", "thinking_maths"} <= names


# --- the table of nine ---------------------------------------------------------------------------


def test_the_table_of_nine_by_hand():
    """Of four prompts one is unsafe after the base's thought: .25. 2 + 1 million tokens are 3."""
    prefills = pd.DataFrame(
        {
            "arm": "recap",
            "seed": 0,
            "prompt_id": ["a", "b", "c", "d", "a"],
            "domain": "forbidden",
            "kind": "prefill",
            "donor": ["base"] * 4 + ["none"],
            "steps": [3, 3, 3, 3, 1],
            "is_safe": [True, True, False, True, False],
        }
    )
    cost = pd.DataFrame({"arm": ["recap", "safr"], "total_tokens": [3e6, 1e6], "n_seeds": 1})
    measures = pd.DataFrame(
        {
            "arm": ["recap", "safr"],
            "measure": "refuses_harmless",
            "value": [0.1, 0.2],
            "low": 0.0,
            "high": 1.0,
        }
    )
    tables = SimpleNamespace(
        measures=measures,
        tables={"prefills": prefills},
        results={"cost_by_arm": cost},
    )

    # SafR stands for no system: SafB does.
    table = nine_table(tables)
    assert set(table["arm"]) == {"RECAP"}
    values = table.set_index("measure")["value"]
    assert values.to_dict() == {
        "refuses_harmless": 0.1,
        "unsafe_prefilled": 0.25,
        "million_tokens": 3.0,
    }


def test_every_system_has_an_arm():
    """Nine systems, one of which (Beyond SFT) has two arms, and the base: eleven rows."""
    assert len(MAIN) == 11
    assert set(MAIN) <= {*COMPARED, *METHODS}
    assert not set(INTERVENING) & set(OWN)
    assert len(PANELS) == 9
