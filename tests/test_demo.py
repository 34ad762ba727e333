"""The demo: two runs that come with the package, a page of both, three figures."""

import json

import pytest
from typer.testing import CliRunner

from cotlens import Run
from cotlens.cli import app
from cotlens.cli.demo import ARMS, SHOWN


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "demo"
    result = CliRunner().invoke(app, ["demo", "-o", str(out), "--no-open"])
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_page_and_three_figures_lie_in_the_folder(shown):
    out, said = shown
    assert "<!doctype html>" in (out / "page.html").read_text(encoding="utf-8")[:100].lower()
    drawn = {path.relative_to(out / "figures").with_suffix("") for path in out.rglob("*.png")}
    assert {str(name) for name in drawn} == set(SHOWN)
    assert all(f"{name}.png" in said for name in SHOWN)


def test_both_checkpoints_answer_the_same_prompts(shown):
    out, _ = shown
    base, rl = (Run(out / arm).trace_table() for arm in ARMS)
    assert base["prompt_id"].tolist() == rl["prompt_id"].tolist()
    assert len(base) == 34


def test_rl_is_safer_in_what_is_shown(shown):
    """The point of the demo, by the oracle's verdicts on the thinking."""
    out, _ = shown
    shares = []
    for arm in ARMS:
        run = Run(out / arm)
        verdicts = run.with_verdicts(run.trace_table(), "oracle")
        shares.append(verdicts["thinking_unsafe"].astype("boolean").mean())
    assert shares[0] > shares[1]


def test_it_can_be_called_again_and_takes_no_other_folder(shown, tmp_path):
    out, _ = shown
    again = CliRunner().invoke(app, ["demo", "-o", str(out), "--no-open"])
    assert again.exit_code == 0, again.output

    (tmp_path / "mine.txt").write_text("mine")
    refused = CliRunner().invoke(app, ["demo", "-o", str(tmp_path), "--no-open"])
    assert refused.exit_code == 1
    assert "holds something other than a demo" in str(refused.exception)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_data_is_small_and_names_no_folder():
    from importlib.resources import as_file, files

    with as_file(files("cotlens.cli") / "demo_data") as data:
        every = [path for path in data.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in every) < 1_000_000
        for path in data.rglob("run.json"):
            inputs = json.loads(path.read_text()).get("inputs", [])
            assert all("/" not in made_from["path"] for made_from in inputs)
