"""What is shown and stored holds no escape, no key and no password; csv holds no formula."""

import base64
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cotlens import TraceError
from cotlens.cells import guard, read_csv, to_csv, unguard
from cotlens.cli import app
from cotlens.shown import clean_key, masked, printable

KEY = 'sk-aB3"/+=é9'.replace("é", "") + "xyz12"


def test_a_terminal_obeys_nothing():
    """Escape, bell, a C1 sequence, and marks that turn the writing direction."""
    text = "a\x1b[31mb\x07c\x9b2Jd\u202ee\ud800"
    assert printable(text) == "a\\x1b[31mb\\x07c\\x9b2Jd\\u202ee\\ud800"
    assert printable("two\nlines\tand é 你好") == "two\nlines\tand é 你好"


@given(st.text())
def test_what_is_printed_can_be_printed(text):
    shown = printable(text)
    assert all(
        sign in "\n\t" or sign.isprintable() or sign.isspace() or ord(sign) > 0x9F for sign in shown
    )
    shown.encode()


# --- keys ----------------------------------------------------------------------------------------


def test_white_space_around_a_key_is_taken_away():
    assert clean_key(" sk-1234\n") == "sk-1234"
    assert clean_key("") == ""


@pytest.mark.parametrize("key", ["sk 1234", "sk\x001234", "schlüssel"])
def test_a_key_that_no_header_takes_is_not_repeated(key):
    with pytest.raises(TraceError) as caught:
        clean_key(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("before", ["", "a", "ab", "user:", "Bearer "])
def test_a_key_is_masked_in_every_form(before):
    from urllib.parse import quote

    forms = [
        KEY,
        quote(KEY, safe=""),
        json.dumps(KEY),
        repr(KEY),
        base64.b64encode((before + KEY).encode()).decode(),
        base64.urlsafe_b64encode((before + KEY).encode()).decode(),
    ]
    for form in forms:
        said = masked(f"the server said {form}!", KEY + "\n")
        assert "***" in said
        assert KEY[:8] not in said


def test_a_password_in_an_address_is_masked():
    assert (
        masked("failed: https://me:pass@host:8000/v1?x=1") == "failed: https://***@host:8000/v1?x=1"
    )


def test_what_is_not_secret_stays():
    assert masked("nothing here", "sk-1234") == "nothing here"
    assert masked("a key of three", "of ") == "a key of three"


# --- csv -----------------------------------------------------------------------------------------


def test_a_formula_is_text(tmp_path):
    table = pd.DataFrame(
        {
            "=name": ["=cmd()", "+1", "-a", "@x", "'=y", "plain", None],
            "value": [-1.5, 2, 3, 4, 5, 6, 7],
        }
    )
    path = tmp_path / "table.csv"
    path.write_text(to_csv(table))
    cells = path.read_text().splitlines()
    assert cells[:3] == ["'=name,value", "'=cmd(),-1.5", "'+1,2.0"]
    pd.testing.assert_frame_equal(
        read_csv(path).astype(object).where(lambda t: t.notna(), None),
        table.astype(object).where(lambda t: t.notna(), None),
    )


@given(st.text())
def test_what_is_guarded_comes_back(text):
    assert unguard(guard(text)) == text
    assert not guard(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_models_name_in_a_figures_numbers(tmp_path):
    """Through the command line: a model called like a formula."""
    rows = [
        {
            "id": f"{n}",
            "prompt": "2+2?",
            "model": "=cmd()",
            "completion": "<think>\nSo 4.\n</think>\n\n4",
        }
        for n in range(3)
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run, out = str(tmp_path / "run"), str(tmp_path / "figures")
    runner = CliRunner()
    assert runner.invoke(app, ["analyze", str(tmp_path / "t.jsonl"), "-o", run]).exit_code == 0
    assert runner.invoke(app, ["figures", run, "-o", out]).exit_code == 0
    cells = [
        cell
        for path in (tmp_path / "figures").rglob("*.csv")
        for line in path.read_text().splitlines()
        for cell in line.split(",")
    ]
    assert "'=cmd()" in cells
    assert not any(cell.startswith(("=", "@")) for cell in cells)


def test_a_models_name_cannot_steer_the_terminal(tmp_path):
    row = {
        "id": "1",
        "prompt": "2+2?",
        "model": "m\x1b[2J",
        "completion": "<think>\nSo 4.\n</think>\n\n4",
    }
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    result = CliRunner().invoke(app, ["info", str(tmp_path / "t.jsonl")])
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "m\\x1b[2J" in result.output
