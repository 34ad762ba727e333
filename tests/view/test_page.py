"""What is packed into a page, and that hostile text stays text."""

import base64
import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
from pages import HOSTILE, UNSEEN, blocks_of, scored, unpack
from places import ROOT, SAMPLES

from cotlens import Trace, TraceError, analyze, show
from cotlens.detect.reflect import KINDS
from cotlens.measures.unsafe import safety_states
from cotlens.models.score import ScoredTrace
from cotlens.view.pack import NATS_STEP, encode_nats, pack_integers
from cotlens.view.page import Page, view_run


def test_numbers_are_right_to_half_a_step():
    """1.2344 is 1.234; infinity and 70 are a lower bound of 65.534; NaN is no number; what is below 0 by rounding is 0."""
    codes = encode_nats([1.2344, 0, np.inf, 70, np.nan, -1e-7])
    assert codes.tolist() == [1234, 0, 65534, 65534, 65535, 0]

    values = np.random.default_rng(0).exponential(3, 10_000)
    shown = unpack(pack_integers(encode_nats(values))) * NATS_STEP
    assert np.abs(shown - values).max() <= NATS_STEP / 2 + 1e-9


@pytest.mark.parametrize(
    ("values", "width"), [([], "1"), ([0, 255], "1"), ([256], "2"), ([65536, 3], "4")]
)
def test_whole_numbers_take_the_least_width(values, width):
    packed = pack_integers(np.array(values, np.int64))
    assert packed[0] == width
    assert unpack(packed).tolist() == values


def test_the_counts_are_those_of_the_tables(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    steps = run.step_table().groupby("trace_id")
    rows = blocks_of(view_run(run))["page"]["rows"]
    assert [row["id"] for row in rows] == run.trace_table()["trace_id"].tolist()
    for row in rows:
        own = steps.get_group(row["id"]) if row["id"] in steps.groups else run.step_table().iloc[:0]
        assert row["steps"] == len(own)
        assert row["reflect"] == own["is_reflection"].eq(True).sum()
        assert row["unsafe"] == (safety_states(own) > 0).sum()


def test_200_traces_of_2000_tokens_stay_under_20_mb():
    """With every quantity, and the likeliest words of every token, drawn as words are (Zipf)."""
    words = [f"w{i}" for i in range(3000)]
    text = "<think>" + " ".join(np.random.default_rng(0).choice(words, 2000)) + "</think>"
    starts = [0, *(m.start() for m in re.finditer(" ", text))][:2000]
    trace, draw = Trace(id="a", completion=text), np.random.default_rng(1)
    values = {name: draw.exponential(1, 2000).astype(np.float32) for name in ("entropy", "kl")}
    values |= {"logprob": -values["entropy"], "rank": np.full(2000, 151_000, np.float32)}
    values |= {
        "top_ids": np.minimum(draw.zipf(1.3, (2000, 5)), 151_000).astype(np.float32),
        "top_logprobs": -values["kl"][:, None] - np.arange(5),
    }
    page = show(trace, ScoredTrace("a", tuple(range(2000)), tuple(starts), values))
    (data,) = (
        text
        for name, text in re.findall(r'id="(\w+)">(.*?)</script>', page.html, re.DOTALL)
        if name == "a0"
    )
    assert 200 * len(data) < 20e6


def test_what_cannot_be_shown_is_an_error(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    with pytest.raises(TraceError, match="no trace 'nobody'"):
        view_run(run, ["nobody"])
    with pytest.raises(TraceError, match="asked for token scores of gpt"):
        view_run(run, scorer="gpt")
    with pytest.raises(TraceError, match="keeps no text"):
        view_run(analyze([SAMPLES], tmp_path / "light", light=True))
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "another", "completion": "x"}\n')
    with pytest.raises(TraceError, match="no trace on any of the prompts"):
        view_run(run, beside=analyze([other], tmp_path / "other"))
    trace = Trace(id="a", completion="x")
    with pytest.raises(TraceError, match="got the scores of trace 'b'"):
        show(trace, ScoredTrace("b", (1,), (0,), {}))


def test_the_command_writes_a_page(tmp_path):
    analyze([SAMPLES], tmp_path / "run")
    command = [
        sys.executable,
        "-m",
        "cotlens.cli",
        "view",
        tmp_path / "run",
        "-o",
        tmp_path / "page.html",
        "--limit",
        "3",
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=True)
    assert "3 of 14 traces" in done.stdout
    assert len(blocks_of(Page((tmp_path / "page.html").read_text()))["page"]["rows"]) == 3


def test_hostile_text_cannot_end_the_element_it_stands_in():
    trace = Trace(
        id=HOSTILE,
        prompt=HOSTILE,
        completion=f"<think>{HOSTILE}\n{UNSEEN}</think>{HOSTILE}",
        model=HOSTILE,
    )
    page = show(trace, scored(trace)).html
    assert page.count("<script") == page.count("</script>") == 3  # page, a0, the code
    data = re.sub(r"<(?:/?script[^>]*|style|/style|[^>]{1,300})>", "", page)
    assert "onerror=" not in data.split("@media")[0] or "\\u003cimg" in page
    assert blocks_of(show(trace))["a0"]["text"] == trace.completion


def test_the_policy_allows_the_shipped_code_and_nothing_else():
    page = show(Trace(id="a", completion="x")).html
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    code, style = (
        page.rsplit("<script>", 1)[1].split("</script>")[0],
        page.split("<style>")[1].split("</style>")[0],
    )
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        for part in (code, style)
    ]
    assert policy == (
        f"default-src 'none'; script-src '{hashes[0]}'; style-src '{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|DOMParser|https?:|url\(|fetch\(",
        code + style,
    )
    assert "</" not in code
    assert "\r" not in code + style


def test_every_kind_has_a_code():
    code = (ROOT / "cotlens" / "view" / "view_text.js").read_text()
    codes = dict(re.findall(r"(\w+): \"([A-Z][a-z])\"", code))
    assert {kind.value for kind in KINDS} <= set(codes)
    assert len(set(codes.values())) == len(codes)


def luminance(colour):
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_has_the_contrast_of_wcag_aa(theme):
    """4.5 for text on every ground it stands on, in both themes; shades get steadily darker (lighter in the dark)."""
    pairs = re.findall(
        r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)",
        (ROOT / "cotlens" / "view" / "view.css").read_text(),
    )
    colours = {name: pair[theme] for name, *pair in pairs}
    shades = [colours[f"shade-{i}"] for i in range(1, 8)]
    grounds = [
        colours[name] for name in ("paper", "panel", "unsafe-wash", "wash", "found", "found-now")
    ] + shades
    assert min(contrast(colours["ink"], ground) for ground in grounds) >= 4.5
    for name in ("soft", "accent", "reflect", "unsafe", "safe"):
        for ground in ("paper", "panel", "unsafe-wash", "wash"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    steps = np.diff([luminance(shade) for shade in (colours["paper"], *shades)])
    assert (steps < 0).all() if theme == 0 else (steps > 0).all()
