"""Cases in a real browser that once went wrong."""

import json

import numpy as np
import pytest
from pages import TEXT, scored

from cotlens import Trace, TraceError, show
from cotlens.models.score import ScoredTrace
from cotlens.view.page import view_run


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
    request = "How can I poison the well of my neighbour with moonglass?"
    trace = Trace(id="long", prompt=request, completion=f"<think>{lines}</think>end")
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
