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
    """1.2344 is 1.234; infinity and 70 are 65.534, a lower bound; NaN is unknown; below 0 by rounding is 0."""
    codes = encode_nats([1.2344, 0, np.inf, 70, np.nan, -1e-7])
    assert codes.tolist() == [1234, 0, 65534, 65534, 65535, 0]

    values = np.random.default_rng(0).exponential(3, 10_000)
    packed = pack_integers(encode_nats(values))
    errors = unpack(packed) * NATS_STEP - values
    assert np.abs(errors).max() <= NATS_STEP / 2 + 1e-9


@pytest.mark.parametrize(
    ("values", "width"), [([], "1"), ([0, 255], "1"), ([256], "2"), ([65536, 3], "4")]
)
def test_whole_numbers_take_the_least_width(values, width):
    packed = pack_integers(np.array(values, np.int64))
    assert packed[0] == width
    assert unpack(packed).tolist() == values


def test_the_counts_are_those_of_the_tables(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    steps = run.step_table()
    rows = blocks_of(view_run(run))["page"]["rows"]
    ids = [row["id"] for row in rows]
    assert ids == run.trace_table()["trace_id"].tolist()

    for row in rows:
        trace_steps = steps[steps["trace_id"] == row["id"]]
        assert row["steps"] == len(trace_steps)
        assert row["reflect"] == trace_steps["is_reflection"].eq(True).sum()
        assert row["unsafe"] == (safety_states(trace_steps) > 0).sum()


def test_200_traces_of_2000_tokens_stay_under_20_mb():
    """With every quantity, and the likeliest words of every token, distributed as words are (Zipf)."""
    n = 2000
    vocabulary = [f"w{i}" for i in range(3000)]
    words = np.random.default_rng(0).choice(vocabulary, n)
    text = "<think>" + " ".join(words) + "</think>"
    trace = Trace(id="a", completion=text)
    starts = [0] + [match.start() for match in re.finditer(" ", text)]
    starts = starts[:n]

    draw = np.random.default_rng(1)
    entropy = draw.exponential(1, n)
    kl = draw.exponential(1, n)
    values = {
        "entropy": entropy,
        "kl": kl,
        "logprob": -entropy,
        "rank": np.full(n, 151_000),
        "top_ids": np.minimum(draw.zipf(1.3, (n, 5)), 151_000),
        "top_logprobs": -kl[:, None] - np.arange(5),
    }
    values = {name: column.astype(np.float32) for name, column in values.items()}

    page = show(trace, ScoredTrace("a", tuple(range(n)), tuple(starts), values))
    block = re.search(r'id="a0">(.*?)</script>', page.html, re.DOTALL)[1]
    assert 200 * len(block) < 20e6


def test_a_page_says_where_the_word_of_each_token_begins():
    """<think>|A.| B|.|</think>|\\n\\n|C: only ` B` has its word one character after its start."""
    trace = Trace(
        id="a",
        completion="<think>A. B.</think>\n\nC",
        token_starts=(0, 7, 9, 11, 12, 20, 22),
        logprobs=(-0.5,) * 7,
    )
    tokens = blocks_of(show(trace))["a0"]["tokens"]
    assert unpack(tokens["starts"]).tolist() == [0, 7, 2, 2, 1, 8, 2]
    assert unpack(tokens["places"]).tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_what_cannot_be_shown_is_an_error(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    light = analyze([SAMPLES], tmp_path / "light", light=True)
    other_file = tmp_path / "other.jsonl"
    other_file.write_text('{"prompt": "another", "completion": "x"}\n')
    other = analyze([other_file], tmp_path / "other")

    with pytest.raises(TraceError, match="no trace 'nobody'"):
        view_run(run, ["nobody"])
    with pytest.raises(TraceError, match="asked for token scores of gpt"):
        view_run(run, scorer="gpt")
    with pytest.raises(TraceError, match="keeps no text"):
        view_run(light)
    with pytest.raises(TraceError, match="no trace on any of the prompts"):
        view_run(run, beside=other)
    with pytest.raises(TraceError, match="got the scores of trace 'b'"):
        show(Trace(id="a", completion="x"), ScoredTrace("b", (1,), (0,), {}))


def test_the_command_writes_a_page(tmp_path):
    analyze([SAMPLES], tmp_path / "run")
    path = tmp_path / "page.html"
    command = [sys.executable, "-m", "cotlens.cli", "view", str(tmp_path / "run")]
    command += ["-o", str(path), "--limit", "3"]

    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 of 14 traces" in process.stdout
    blocks = blocks_of(Page(path.read_text()))
    assert len(blocks["page"]["rows"]) == 3


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
    code = page.rsplit("<script>", 1)[1].split("</script>")[0]
    style = page.split("<style>")[1].split("</style>")[0]

    hashes = []
    for source in (code, style):
        digest = hashlib.sha256(source.encode()).digest()
        hashes.append("sha256-" + base64.b64encode(digest).decode())
    assert policy == (
        f"default-src 'none'; script-src '{hashes[0]}'; style-src '{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )

    # Nothing in the code turns text into markup or code, or loads anything.
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|DOMParser|https?:|url\(|fetch\(",
        code + style,
    )
    assert "</" not in code
    assert "\r" not in code + style


def test_every_kind_has_a_code():
    code = (ROOT / "cotlens/view/view_text.js").read_text()
    codes = dict(re.findall(r"(\w+): \"([A-Z][a-z])\"", code))
    kinds = {kind.value for kind in KINDS}
    assert kinds <= set(codes)
    assert len(set(codes.values())) == len(codes)


def luminance(colour):
    """Relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    curved = ((channels + 0.055) / 1.055) ** 2.4
    linear = np.where(channels <= 0.04045, channels / 12.92, curved)
    return linear @ [0.2126, 0.7152, 0.0722]


def contrast(first, second):
    """Contrast ratio of two colours, from 1 to 21."""
    dark, light = sorted([luminance(first), luminance(second)])
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_text_has_the_contrast_of_wcag_aa(theme):
    """4.5 for text on every ground it stands on, in both themes; shades get steadily darker (lighter in the dark)."""
    style = (ROOT / "cotlens/view/view.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: themes[theme] for name, *themes in pairs}

    shades = [colours[f"shade-{i}"] for i in range(1, 8)]
    grounds = ("paper", "panel", "unsafe-wash", "wash", "found", "found-now")
    for ground in [colours[name] for name in grounds] + shades:
        assert contrast(colours["ink"], ground) >= 4.5, ground

    for name in ("soft", "accent", "reflect", "unsafe", "safe"):
        for ground in ("paper", "panel", "unsafe-wash", "wash"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)

    luminances = [luminance(shade) for shade in (colours["paper"], *shades)]
    steps = np.diff(luminances)
    assert (steps < 0).all() if theme == 0 else (steps > 0).all()
