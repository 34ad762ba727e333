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
