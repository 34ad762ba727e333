"""A person can read traces in a real browser: table, text, keys, search, two checkpoints."""

import json
import re

import numpy as np
import pytest
from pages import HOSTILE, TEXT, UNSEEN, scored

from cotlens import Trace, TraceError, analyze, show, step_table
from cotlens.measures.unsafe import safety_states
from cotlens.models.score import ScoredTrace
from cotlens.view.pack import page_blocks
from cotlens.view.page import _make_page, view_run
from cotlens.view.shown import ShownTrace


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


def test_a_token_is_shaded_in_the_step_that_holds_its_word(look):
    """The blank before a word is the row's before, and no token's there; the emoji takes two units in JavaScript."""
    pieces = [
        "<think>",
        "🤔",
        " One",
        ".",
        " Two",
        ".",
        "\n\n",
        "Three",
        ".\n",
        "</think>",
        "\n\nFour",
    ]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    n = len(pieces)
    values = {name: np.full(n, 0.1, np.float32) for name in ("entropy", "logprob")}
    values["entropy"][4] = 3
    trace = Trace(id="a", prompt="Is it? " * 50, completion="".join(pieces))
    tab = look(show(trace, ScoredTrace("a", tuple(range(n)), tuple(starts.tolist()), values)))

    tokens = tab.locator(".row:not(.prompt) .tok")
    texts = tokens.evaluate_all("all => all.map((t) => [Number(t.dataset.token), t.textContent])")
    assert [text for number, text in texts if number == 2] == [" One"]
    assert [text for number, text in texts if number == 4] == ["Two"]
    assert "".join(tab.locator(".row:not(.prompt) .text").all_text_contents()) == trace.completion

    # The only token of high entropy is in the second step's row, and its line counts it.
    tab.keyboard.press("h")
    tab.locator(".tok.now").wait_for()
    row = tab.locator(".row:has(.tok.now)")
    assert row.locator(".rail a").text_content() == "1"
    assert tab.locator(".tok.now").text_content() == "Two"


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


def test_a_title_that_cannot_be_encoded_is_shown(look):
    """The name of a folder may hold a lone surrogate."""
    trace = Trace(id="a", completion="x")
    shown = ShownTrace(trace, step_table([trace]), None, {}, None)
    title = "broken \ud83d name"
    tab = look(_make_page(title, page_blocks(title, [shown], [], ["", ""], 1)))
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
