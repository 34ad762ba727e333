"""The viewer: what is packed, that hostile text stays text, and that a person can use the page in a real browser."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT, SAMPLES
from tiny import byte_tokenizer, tiny_model

from cotlens import Trace, TraceError, analyze, score, show, step_table
from cotlens.detect.reflect import KINDS
from cotlens.measures.unsafe import safety_states
from cotlens.models.load import wrap_model
from cotlens.models.score import ScoredTrace
from cotlens.view import page as view_module
from cotlens.view.page import Page, view_run

TEXT = (
    "<think>\nThe user asks how to pick a lock. 👩‍💻 This is illegal and could hurt people.\n\n"
    "But maybe they are just curious, so I'll explain it anyway. Wait, is that right? Let me double-check.\n\n"
    "2 + 2 = 4, and 𝔘 is a letter. So I should refuse.\n</think>\n\nI can't help with that. 🎉"
)
HOSTILE = (
    "<script>window.ran = 1</script></script><img src=x onerror='window.ran = 1'></textarea></title></style>"
    "<svg onload='window.ran = 1'><a href='javascript:window.ran = 1'>x</a><!-- <script> --> ]]> ${7*7} {{7*7}} &lt;b&gt;"
)
UNSEEN = "exe\u202etxt.\u202c nul\x00 bell\x07 esc\x1b[31m \u2066iso\u2069 zero\u200bwidth \U000e0041\U000e0042 \x85 \u2028 \ufeff"


def scored(trace, seed=0, k=0):
    """Invented scores: a token is one character, or a quarter of one where it takes four bytes."""
    starts = [i for i, c in enumerate(trace.completion) for _ in range(4 if ord(c) > 0xFFFF else 1)]
    draw, n = np.random.default_rng(seed), len(starts)
    values = {name: draw.exponential(0.7, n).astype(np.float32) for name in ("entropy", "kl")}
    values |= {
        "logprob": -draw.exponential(1, n).astype(np.float32),
        "rank": draw.integers(1, 2000, n).astype(np.float32),
    }
    if k:
        values["top_ids"] = np.array(
            [[ord(trace.completion[s]) + j for j in range(k)] for s in starts], np.float32
        )
        values["top_logprobs"] = np.log(np.tile(0.5 ** np.arange(1, k + 1), (n, 1))).astype(
            np.float32
        )
    ids = tuple(ord(trace.completion[s]) for s in starts)
    return ScoredTrace(trace.id, ids, tuple(starts), values)


# --- what is packed --------------------------------------------------------------------------------------------


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed[2:]), f"<u{packed[0]}")


def test_numbers_are_right_to_half_a_step():
    """1.2344 is 1.234; infinity and 70 are a lower bound of 65.534; NaN is no number; what is below 0 by rounding is 0."""
    assert view_module._nats([1.2344, 0, np.inf, 70, np.nan, -1e-7]).tolist() == [
        1234,
        0,
        65534,
        65534,
        65535,
        0,
    ]
    values = np.random.default_rng(0).exponential(3, 10_000)
    error = np.abs(
        unpack(view_module._pack(view_module._nats(values))) * view_module.NATS_STEP - values
    )
    assert error.max() <= view_module.NATS_STEP / 2 + 1e-9


@pytest.mark.parametrize(
    ("values", "width"), [([], "1"), ([0, 255], "1"), ([256], "2"), ([65536, 3], "4")]
)
def test_whole_numbers_take_the_least_width(values, width):
    packed = view_module._pack(np.array(values, np.int64))
    assert packed[0] == width
    assert unpack(packed).tolist() == values


def blocks_of(page):
    found = re.findall(
        r'<script type="application/json" id="(\w+)">(.*?)</script>', page.html, re.DOTALL
    )
    return {name: json.loads(text) for name, text in found}


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
    with pytest.raises(TraceError, match="those of 'b'"):
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


# --- hostile text, and the look, without a browser -------------------------------------------------------------


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


# --- in a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, headless. Without one the tests are skipped, and say so; in CI they fail."""
    path = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "NO BROWSER: the viewer is untested. Install chromium (apt-get install chromium) and the [dev] extra"
        )
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def look(browser, tmp_path):
    """Opens a page from its file; at the end nothing may have been logged, asked for or refused by the policy."""
    said, asked, opened = [], [], []

    def start(page, fragment="", **options):
        path = page.save(tmp_path / "page.html")
        tab = browser.new_page(**{"viewport": {"width": 1200, "height": 800}, **options})
        tab.set_default_timeout(60_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.add_init_script(
            "addEventListener('securitypolicyviolation', (e) => console.error('refused ' + e.blockedURI))"
        )
        tab.goto(path.as_uri() + fragment)
        tab.wait_for_selector("html[data-ready]")
        opened.append(tab)
        return tab

    yield start
    for tab in opened:
        assert tab.evaluate("window.ran") is None
        tab.close()
    assert said == []
    assert all(url.startswith("file:") and ".html" in url for url in asked)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two scored runs on the same prompts, the second without the last prompt."""
    folder, found = tmp_path_factory.mktemp("runs"), []
    tokenizer = byte_tokenizer()
    lines = [line for line in SAMPLES.read_text().splitlines(True) if '"token_ids"' not in line]
    lines.append(json.dumps({"id": "lock", "prompt": "Pick a lock?", "completion": TEXT}) + "\n")
    for name, rows in (("base", lines), ("grpo", lines[:-1])):
        (folder / f"{name}.jsonl").write_text("".join(rows))
        run = analyze([folder / f"{name}.jsonl"], folder / name, method=name)
        model = wrap_model(
            tiny_model(len(tokenizer), max_position_embeddings=4096), tokenizer, name="tiny"
        )
        score(run, model, top_k=3, reference=model)
        found.append(run)
    return found


def test_the_table_of_traces_sorts_filters_and_leads_to_them(look, runs):
    tab = look(view_run(runs[0]))
    table = runs[0].trace_table()
    ids = tab.eval_on_selector_all("tbody td a", "links => links.map((a) => a.textContent)")
    assert ids == table["trace_id"].tolist()
    tab.get_by_role("button", name="steps", exact=True).click()
    assert tab.get_attribute("th:has-text('steps')", "aria-sort") == "descending"
    ids = tab.eval_on_selector_all("tbody td a", "links => links.map((a) => a.textContent)")
    assert ids == table.sort_values("n_steps", ascending=False, kind="stable")["trace_id"].tolist()
    tab.keyboard.press("/")
    tab.keyboard.type("lock")
    assert tab.locator("tbody tr:visible").count() == 1
    tab.click("text=lock >> nth=0")
    tab.wait_for_selector(".pane")
    assert tab.url.endswith(f"#{len(table) - 1}")
    tab.keyboard.press("o")
    tab.wait_for_selector(".overview")


def test_the_text_is_complete_and_tokens_lie_where_python_puts_them(look):
    """Emoji take one code point in Python and two units in JavaScript; three tokens may make one of them."""
    trace = Trace(id="a", prompt="Pick a 🔒?", completion=TEXT)
    scores = scored(trace)
    tab = look(show(trace, scores))
    assert "".join(tab.locator(".row:not(.prompt) .text").all_text_contents()) == TEXT
    spans = tab.eval_on_selector_all(
        ".tok", "all => all.map((t) => [Number(t.dataset.token), t.textContent])"
    )
    seen = {scores.token_starts[token]: text for token, text in spans if text}
    lines = {i for i in range(len(TEXT)) if TEXT[i] == "\n"}
    assert {start: TEXT[start] for start in range(len(TEXT)) if start not in lines} == {
        k: v for k, v in seen.items() if v != "\n"
    }
    starts = step_table([trace])["start"].tolist()
    first = tab.eval_on_selector_all(".row.think .text", "all => all.map((t) => t.textContent)")
    assert [TEXT[start : start + 5] for start in starts] == [text[:5] for text in first]


def test_keys_lead_from_one_to_the_next(look):
    trace = Trace(id="a", completion=TEXT)
    steps, scores = step_table([trace]), scored(trace, k=3)
    tab = look(show(trace, scores))
    said = tab.locator("#said")
    for key, flags in (
        ("r", steps["is_reflection"].eq(True)),
        ("u", safety_states(steps) > 0),
        ("j", steps["step"] >= 0),
    ):
        tab.evaluate(
            "document.querySelector('.scroller').scrollTo(0, 0); state.panes[0].setCurrent(-1)"
        )
        for number, step in enumerate(steps["step"][flags], 1):
            tab.keyboard.press(key)
            assert f" · {number} of {flags.sum()} " in said.text_content()
            assert said.text_content().startswith(f"step {step}, ")
            assert tab.locator(".row.current .rail a").text_content() == str(step)
            assert tab.evaluate("document.activeElement.classList.contains('current')")
        tab.keyboard.press(key)
        assert said.text_content().startswith("no ")
    tab.keyboard.press("R")
    assert "reflecting step" in said.text_content()
    assert steps["is_reflection"].sum() > 1


def test_a_token_shows_its_numbers_and_the_likeliest_words(look):
    """Token 8 is b; the words have 50 %, 25 % and 12.5 %, and the third stands nowhere in the text."""
    trace = Trace(id="a", completion="<think>abc. Wait.</think>x")
    scores = scored(trace, k=3)
    tab = look(show(trace, scores))
    tab.locator('[data-token="8"]').hover()
    tip = tab.locator("#tip")
    assert f"{scores.values['entropy'][8]:.3f} nats" in tip.text_content()
    assert f"rank{int(scores.values['rank'][8]):,}" in tip.text_content()
    rows = tip.locator("tr").all_text_contents()
    assert rows[-3:] == ["b50.0 %", "c25.0 %", "id 10012.5 %"]
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("h")
    assert "high-entropy token" in tab.locator("#said").text_content()
    tab.locator(
        ".tok.now"
    ).wait_for()  # drawn with the next frames, and only the last one asked for
    assert tab.locator(".tok.now").count() == 1


def test_unsafe_text_is_blurred_until_asked_for(look):
    trace = Trace(id="a", completion=TEXT)
    tab = look(show(trace))
    n = (safety_states(step_table([trace])) > 0).sum()
    assert n > 0
    assert tab.locator(".row.veiled").count() == n
    assert tab.locator(".row.veiled .text[aria-hidden=true]").count() == n
    assert "blur" in tab.eval_on_selector(
        ".row.veiled .text", "node => getComputedStyle(node).filter"
    )
    tab.keyboard.press("u")
    tab.keyboard.press("v")
    assert tab.locator(".row.veiled").count() == n - 1
    tab.keyboard.press("b")
    assert tab.locator(".row.veiled").count() == 0
    tab.keyboard.press("b")
    tab.locator(".lift").first.click()
    assert tab.locator(".row.veiled").count() == n - 1


def test_search_counts_and_goes_on(look):
    trace = Trace(
        id="a", prompt="A 👩‍💻 asks.", completion=TEXT.replace("curious", "curious (a.b)")
    )
    tab = look(show(trace))
    tab.keyboard.press("/")
    tab.keyboard.type("IS")
    assert tab.locator("#found").text_content() == f"{trace.completion.lower().count('is')} found"
    tab.keyboard.press("Enter")
    assert tab.locator("#found").text_content().startswith("1 of")
    assert tab.evaluate("[...CSS.highlights.get('found-now')].map(String)") == ["is"]
    tab.fill("#query", "a.b")
    assert tab.locator("#found").text_content() == "1 found"
    tab.keyboard.press("Escape")
    assert tab.evaluate("CSS.highlights.get('found').size") == 0


def test_two_checkpoints_stand_side_by_side(look, runs):
    page = view_run(runs[0], beside=runs[1])
    tab = look(page)
    assert tab.locator("th.beside").count() >= 4
    last = len(runs[0].trace_table()) - 1
    tab.goto(tab.url + "#0")
    tab.wait_for_selector(".pane >> nth=1")
    titles = tab.locator(".pane h2").all_text_contents()
    assert [title.split(" · ")[0] for title in titles] == ["base", "grpo"]
    assert titles[0].split(" · ")[1] == titles[1].split(" · ")[1]
    tab.keyboard.press("x")
    assert tab.evaluate("state.active") == 1
    tab.keyboard.press("s")
    assert "surprise" in tab.locator("#said").text_content()
    tab.evaluate(f"location.hash = '#{last}'")
    tab.wait_for_selector(".none")
    assert tab.locator(".none").text_content() == "no trace of this prompt in grpo"


@pytest.mark.parametrize("fragment", ["", "#0"])
def test_hostile_text_is_shown_and_does_nothing(look, tmp_path, fragment):
    """Nothing runs, nothing is asked for, and the policy has nothing to refuse: see `look`."""
    rows = [
        {
            "id": HOSTILE,
            "prompt": HOSTILE,
            "completion": f"<think>{HOSTILE} Wait.</think>{HOSTILE}",
            "model": HOSTILE,
        }
    ] * 2
    path = tmp_path / "hostile.jsonl"
    path.write_text(
        "".join(json.dumps(row | {"id": f"{i}{HOSTILE}"}) + "\n" for i, row in enumerate(rows))
    )
    run = analyze([path], tmp_path / "hostile")
    tab = look(view_run(run, beside=run), fragment)
    assert HOSTILE in tab.locator("main").text_content()
    assert tab.locator("main :is(script, img, svg, a[href^=javascript])").count() == 0
    tab.keyboard.press("j")
    tab.wait_for_timeout(200)


def test_what_cannot_be_seen_is_spelled_out(look):
    """Controls and characters that reorder text are labelled; joined emoji stay whole. A surrogate cannot be in a trace."""
    trace = Trace(id="a\u202eb", completion=f"<think>{UNSEEN} 👩‍💻 مرحبا</think>ok")
    tab = look(show(trace))
    glyphs = tab.locator(".row .glyph").all_text_contents()
    unseen = [
        "RLO",
        "PDF",
        "NUL",
        "BEL",
        "ESC",
        "LRI",
        "PDI",
        "ZWSP",
        "TAG A",
        "TAG B",
        "U+0085",
        "LSEP",
        "BOM",
    ]
    assert [g for g in glyphs if g in unseen] == unseen
    shown = tab.locator(".row").all_text_contents()
    assert not re.search(
        "[\u202a-\u202e\u2066-\u2069\x00\x07\x1b]",
        "".join(shown) + tab.locator("#main h2").text_content(),
    )
    assert "👩‍💻 مرحبا" in "".join(shown)
    with pytest.raises(TraceError, match="lone surrogate"):
        Trace(id="a", completion="\ud800")
    item = view_module._Item(
        Trace(id="a", completion="x"), step_table([Trace(id="a", completion="x")]), None, {}, None
    )
    tab = look(view_module._page("broken \ud83d name", [item], [], ("", ""), 1))
    assert tab.locator("#title").text_content().startswith("broken ⟨U+D83D⟩ name")


def test_a_line_of_a_megabyte_and_twelve_thousand_steps(look):
    """The page holds what is near, not everything."""
    for text in ("x" * 1_000_000, "Wait. No.\n" * 6_000):
        trace = Trace(id="a", completion=f"<think>{text}</think>ok")
        tab = look(show(trace))
        assert tab.evaluate("document.querySelectorAll('*').length") < 8_000
        tab.keyboard.press("End")
        tab.evaluate("document.querySelector('.scroller').scrollTo(0, 1e9)")
        tab.wait_for_selector(".row.answer")


def test_a_person_who_sees_nothing_finds_names_and_roles(look, runs):
    """Every control has a name; the steps say what they are; what a key did is announced."""
    tab = look(view_run(runs[0]), "#0")
    unnamed = (
        "all => all.filter((n) => !(n.textContent.trim() || n.getAttribute('aria-label'))).length"
    )
    assert (
        tab.eval_on_selector_all(
            "button, a, input, select, [role=img], [role=group], [role=region]", unnamed
        )
        == 0
    )
    assert tab.get_attribute("#said", "aria-live") == "polite"
    assert tab.get_attribute(".row.think", "aria-label").startswith("step 0, ")
    tab.keyboard.press("?")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#help").is_visible()


def test_themes_and_print(look):
    trace = Trace(id="a", completion=TEXT)
    tab = look(show(trace, scored(trace)), color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(ground)
    tab.keyboard.press("t")
    assert tab.evaluate(ground) != dark
    tab.keyboard.press("t")
    assert tab.evaluate(ground) == dark
    assert len(tab.pdf()) > 5_000
    tab.emulate_media(media="print")
    assert not tab.locator(".bar").is_visible()
    assert tab.locator(".row").first.is_visible()


def test_a_notebook_shows_the_page_in_a_frame_of_its_own(browser):
    """The frame runs the page, and cannot reach the document around it."""
    tab = browser.new_page()
    tab.set_content(f"<h1>notebook</h1>{show(Trace(id='a', completion=TEXT))._repr_html_()}")
    frame = tab.frame_locator("iframe")
    assert frame.locator(".row.think").first.inner_text(timeout=60_000)
    inner = tab.frames[1]
    assert (
        inner.evaluate(
            "(() => { try { return parent.document.title } catch { return 'apart' } })()"
        )
        == "apart"
    )
    tab.close()


# --- what fresh eyes broke -------------------------------------------------------------------------------------


def test_a_link_in_a_notebooks_frame_stays_in_it(runs, browser, tmp_path):
    """A frame made of a string resolves `#1` against the notebook's own address."""
    notebook = tmp_path / "notebook.html"
    notebook.write_text(
        "<!doctype html><meta charset=utf-8><h1>notebook</h1>" + view_run(runs[0])._repr_html_()
    )
    tab = browser.new_page()
    asked = []
    tab.goto(notebook.as_uri())
    tab.on("request", lambda request: asked.append(request.url))
    frame = tab.frames[1]
    frame.wait_for_selector("html[data-ready]")
    frame.locator("tbody td a", has_text="lock").click()
    frame.wait_for_selector(".pane")
    frame.locator(".rail a").nth(1).click()
    assert frame.locator(".row.current .rail a").text_content() == "1"
    assert asked == []
    tab.close()


def test_paper_shows_every_row_and_no_unsafe_text(look):
    """Also the sections that are far from the window, of which only a part stays built on the screen."""
    lines = "".join(
        f"Line {i} is here. But maybe they are just curious, so I'll explain it anyway.\n\n"
        for i in range(900)
    )
    trace = Trace(id="long", completion=f"<think>{lines}</think>end")
    tab = look(show(trace, scored(trace)))
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator(".section:not(.built)").count() == 0
    tab.emulate_media(media="print")
    veiled = tab.locator(".row.veiled .text")
    assert veiled.count() >= 900
    assert set(veiled.evaluate_all("all => all.map((t) => getComputedStyle(t).visibility)")) == {
        "hidden"
    }
    assert "explain it anyway" not in tab.locator(".scroller").evaluate("(node) => node.innerText")
    tab.emulate_media(media="screen")
    while tab.evaluate(
        "2 * state.panes[0].near.size > document.querySelectorAll('.section').length"
    ):
        tab.wait_for_timeout(50)  # until the observer has seen what is near
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert 0 < tab.locator(".section.built").count() < tab.locator(".section").count() / 2


def test_blurred_text_is_not_spelled_out(look):
    """Neither by the keys that go from token to token nor to a screen reader in sections that are not built."""
    trace = Trace(id="a", completion=TEXT)
    tab = look(show(trace, scored(trace)))
    tab.keyboard.press("u")
    tab.keyboard.press("ArrowRight")
    assert "hidden: v shows it" in tab.locator("#said").text_content()
    tab.keyboard.press("v")
    tab.keyboard.press("ArrowRight")
    assert "entropy" in tab.locator("#said").text_content()
    tab.evaluate("state.panes[0].trace.sections.forEach((s) => state.panes[0].flatten(s))")
    hidden = tab.locator(".hid")
    assert set(hidden.evaluate_all("all => all.map((t) => t.ariaHidden)")) <= {"true"}


def test_a_long_name_leaves_room_for_the_text(look):
    for size in ({"width": 1024, "height": 700}, {"width": 320, "height": 480}):
        tab = look(show(Trace(id="A" * 4000, completion=TEXT)), viewport=size)
        assert tab.locator(".body").bounding_box()["height"] > size["height"] / 3


@pytest.mark.parametrize("completion", ["", "x"])
def test_there_may_be_nothing_to_jump_to(look, completion):
    scores = ScoredTrace("a", (1,), (0,), {"logprob": np.zeros(1), "entropy": np.array([np.inf])})
    tab = look(show(Trace(id="a", completion=completion), scores))
    for key in ("j", "h", "ArrowRight", "u", "r", "v", "s", "b"):
        tab.keyboard.press(key)
    tab.locator(".map").click()


def test_the_bytes_of_a_character_are_one_token_with_one_name(look):
    """Four tokens make the cat; hovering and walking name it, and none of them is its name elsewhere."""
    trace = Trace(id="a", completion="<think>ab\U0001f408cd. Wait.</think>x")
    tab = look(show(trace, scored(trace, k=1)))
    words = json.loads(tab.locator("#a0").text_content())["tokens"]["top"]["words"]
    assert "\U0001f408" not in words
    for _ in range(10):
        tab.keyboard.press("ArrowRight")
    assert "token 9 “\U0001f408”" in tab.locator("#said").text_content()


def test_the_table_keeps_its_order_and_its_search(runs, look):
    tab = look(view_run(runs[0]))
    tab.locator("th button", has_text="steps").click()
    shown = tab.eval_on_selector_all(
        "tbody tr:not([hidden])", "all => all.map((row) => Number(row.dataset.trace))"
    )
    tab.locator("tbody td a").first.click()
    tab.keyboard.press("]")
    assert tab.evaluate("location.hash") == f"#{shown[1]}"
    assert tab.title().startswith(tab.evaluate("page.rows[state.index].id"))
    tab.keyboard.press("o")
    assert tab.locator("th[aria-sort=descending]").count() == 1
    tab.locator("#query").fill("lock")
    found = tab.locator("tbody tr:not([hidden])").count()
    assert 0 < found < len(shown)
    assert tab.locator("#found").text_content() == f"{found} of {len(shown)} traces"
    tab.locator("th button", has_text="tokens").click()
    assert tab.locator("tbody tr:not([hidden])").count() == found


def test_what_is_gone_to_is_there_before_the_next_key(runs, look):
    """In one turn of the page's loop, in which no `hashchange` can come; nor does a late one undo what the keys did."""
    tab = look(view_run(runs[0]))
    tab.evaluate("""() => {
        document.querySelector("[data-trace='1'] a").click();
        for (const key of ["]", "j", "j"]) dispatchEvent(new KeyboardEvent("keydown", { key }));
    }""")
    here = tab.locator(".row.current .rail a")
    tab.wait_for_timeout(200)
    assert tab.evaluate("[location.hash, state.index]") == ["#2", 2]
    assert here.text_content() == "1"
    tab.locator(".rail a").first.click()
    tab.keyboard.press("j")
    tab.wait_for_timeout(200)
    assert here.text_content() == "1"
    tab.locator(".rail a").first.click()  # a link to the step that the address names already
    assert here.text_content() == "0"
    for _ in range(2):
        tab.go_back()
    tab.wait_for_selector("#title >> text=trace 2 of")


def test_a_link_to_a_step_of_the_second_pane_leads_there(runs, look):
    tab = look(view_run(runs[0], beside=runs[1]), "#0")
    pane = tab.locator(".pane").nth(1)
    pane.locator(".rail a").nth(1).click()
    assert pane.locator(".row.current .rail a").text_content() == "1"
    assert tab.locator(".pane").nth(0).locator(".row.current").count() == 0


def test_keys_in_quick_succession_leave_nothing_of_the_last_trace(runs, look):
    tab = look(view_run(runs[0]), "#0")
    for _ in range(6):
        for key in ("h", "]", "h", "["):
            tab.evaluate("(key) => dispatchEvent(new KeyboardEvent('keydown', { key }))", key)
    tab.wait_for_timeout(300)
    tab.keyboard.press("j")
    assert tab.locator("#tip").is_hidden()


def test_the_focus_stays_with_the_reader(runs, look):
    """On a trace that is opened the keys that scroll work; other shading leaves the current row its focus."""
    tab = look(view_run(runs[0]))
    tab.locator("tbody td a").first.click()
    assert tab.locator(".scroller:focus").count() == 1
    tab.keyboard.press("j")
    tab.keyboard.press("s")
    assert tab.evaluate("document.activeElement.classList.contains('current')")
    tab.locator("#shade").select_option("rank")
    tab.keyboard.press("j")
    assert "step" in tab.locator("#said").text_content()
    tab.keyboard.press("o")
    assert tab.locator("tr[data-trace='0'] :focus").count() == 1


def test_more_that_cannot_be_seen_is_marked(look):
    """Variation selectors and joiners where they join nothing; those of emoji and of scripts that need them are left."""
    hidden = [
        "a\ufe01",
        "a\U000e0101",
        "a\u200cb",
        "a\u200db",
        "\u2800",
        "\u180b",
        "\U0001d173",
        "\ufdd0",
        "\U0001fffe",
        "a\ufe0f",
    ]
    plain = [
        "\U0001f469\u200d\U0001f4bb",
        "❤\ufe0f",
        "1\ufe0f\u20e3",
        "می\u200cخواهم",
        "a\r\nb",
        "क्\u200dष",
    ]
    tab = look(show(Trace(id="a", completion="x")))
    assert tab.evaluate("(all) => all.map((text) => visible(text) !== text)", hidden) == [
        True
    ] * len(hidden)
    assert tab.evaluate("(all) => all.map((text) => visible(text) !== text)", plain) == [
        False
    ] * len(plain)


def test_whose_scores_and_verdicts_these_are(runs, look, tmp_path):
    tab = look(view_run(runs[0], beside=runs[1]), "#0")
    assert tab.locator(".facts").all_text_contents()[0].endswith("scored by tiny")
    with pytest.raises(TraceError, match="asked for token scores of nobody"):
        view_run(runs[0], beside=runs[1], scorer="nobody")
