"""A real browser, and runs to look at in it."""

import json
import os
import shutil

import pytest
from pages import TEXT
from places import SAMPLES
from tiny import byte_tokenizer, tiny_model

from cotlens import analyze, score
from cotlens.models.load import wrap_model

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, headless. Without one the tests are skipped with a message; in CI they fail."""
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None

    if path is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(
            "NO BROWSER: the viewer is untested. "
            "Install chromium (apt-get install chromium) and the [dev] extra"
        )

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def look(browser, tmp_path):
    """Opens a page from its file. No page may log, request, or do anything that the policy refuses."""
    messages = []
    requests = []
    tabs = []

    def open_page(page, fragment="", **options):
        path = page.save(tmp_path / "page.html")
        tab = browser.new_page(**{"viewport": {"width": 1200, "height": 800}, **options})
        tab.set_default_timeout(60_000)

        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.add_init_script(
            "addEventListener('securitypolicyviolation', "
            "(e) => console.error('refused ' + e.blockedURI))"
        )

        tab.goto(path.as_uri() + fragment)
        tab.wait_for_selector("html[data-ready]")
        tabs.append(tab)
        return tab

    yield open_page

    # Hostile text sets `window.ran` where it is executed.
    for tab in tabs:
        assert tab.evaluate("window.ran") is None
        tab.close()
    assert messages == []
    assert all(url.startswith("file:") and ".html" in url for url in requests)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two scored runs on the same prompts, the second without the last prompt."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = byte_tokenizer()

    # Without the trace that has token ids of another tokenizer.
    lines = [line for line in SAMPLES.read_text().splitlines(True) if '"token_ids"' not in line]
    lines.append(json.dumps({"id": "lock", "prompt": "Pick a lock?", "completion": TEXT}) + "\n")

    scored_runs = []
    for name, rows in (("base", lines), ("grpo", lines[:-1])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(rows))
        run = analyze([path], folder / name, method=name)

        network = tiny_model(len(tokenizer), max_position_embeddings=4096)
        model = wrap_model(network, tokenizer, name="tiny")
        score(run, model, top_k=3, reference=model)
        scored_runs.append(run)
    return scored_runs
