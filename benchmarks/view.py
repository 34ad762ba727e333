"""How fast the viewer opens and scrolls, and how large its pages are: part of `make bench`.

1. A trace of 32,000 tokens with entropies: from navigation to the page being ready and to the first
   painted frame, elements in the page, the time between frames while it scrolls, and the longest
   wait from a key (next step, next reflection, other shading, blur) to the second frame after it;
   next to a naive page with one span per token, in the same browser. The machine's load is in the
   numbers of both, so the ratios are what counts.
2. The page of 200 traces of 2,000 tokens: bytes, with entropy, log-prob and rank, and with KL and
   the likeliest words.

Texts and scores are random. Needs Chromium and the [dev] extra.
"""

import html
import re
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from cotlens import Trace, show
from cotlens.models.score import ScoredTrace
from cotlens.view.page import Page

WORDS = [
    "so",
    "the sum",
    "of",
    "it",
    "is now",
    "four",
    "wait",
    "let me",
    "check",
    "again",
    "a sign",
    "lost",
    "here",
]
SCROLL = """async (selector) => {
  const node = document.querySelector(selector), gaps = [];
  let last = await new Promise(requestAnimationFrame);
  for (let i = 0; i < 120; i += 1) {
    node.scrollTop += 120;
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return gaps;
}"""
KEYS = """async (keys) => {
  const waits = [];
  for (const key of keys) {
    const pressed = performance.now();
    dispatchEvent(new KeyboardEvent("keydown", { key }));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    waits.push(performance.now() - pressed);
  }
  return waits;
}"""


def main() -> None:
    """Prints both tables."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    trace, scores = random_trace(32_000, seed=0)
    pages = {
        "cotlens": (show(trace, scores), ".scroller"),
        "one span per token": (naive(trace, scores), "body"),
    }
    columns = (
        "MB",
        "ready s",
        "painted s",
        "script s",
        "layout s",
        "elements",
        "frame ms",
        "95th",
        "worst",
        "key ms",
    )
    print(f"{'32,000 tokens':<20}" + "".join(f"{name:>11}" for name in columns))
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, (page, scroller) in pages.items():
            measure(
                browser, page.save(Path(folder) / "page.html"), name, scroller
            )  # warms the disk and the browser
        for name, (page, scroller) in pages.items():
            print(measure(browser, page.save(Path(folder) / "page.html"), name, scroller))
        browser.close()
    for what, k in (("entropy, log-prob, rank", 0), ("and KL, 3 likeliest words", 3)):
        size = sum(len(data_of(show(*random_trace(2000, seed=i, k=k)))) for i in range(20)) * 10
        print(f"200 traces of 2,000 tokens, {what}: {size / 1e6:.1f} MB")


def measure(browser: Browser, path: Path, name: str, scroller: str) -> str:
    """One row of the table."""
    tab = browser.new_page(viewport={"width": 1440, "height": 900})
    client = tab.context.new_cdp_session(tab)
    client.send("Performance.enable")
    tab.add_init_script(
        "new PerformanceObserver((l) => { window.painted = l.getEntries()[0].startTime })"
        ".observe({ type: 'paint', buffered: true })"
    )
    tab.goto(path.as_uri())
    tab.wait_for_function(
        "() => window.painted && (document.documentElement.dataset.ready || window.naive)"
    )
    navigation = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
    ready = tab.evaluate(navigation)  # the script runs before this event
    metrics = {
        one["name"]: one["value"] for one in client.send("Performance.getMetrics")["metrics"]
    }
    layout = metrics["LayoutDuration"] + metrics["RecalcStyleDuration"]
    gaps = sorted(tab.evaluate(SCROLL, scroller))
    painted, elements = tab.evaluate("[window.painted, document.querySelectorAll('*').length]")
    numbers = (
        path.stat().st_size / 1e6,
        ready / 1e3,
        painted / 1e3,
        metrics["ScriptDuration"],
        layout,
        elements,
    )
    frames = (statistics.median(gaps), gaps[int(0.95 * len(gaps))], gaps[-1])
    frames += (max(tab.evaluate(KEYS, [*"jjrruuhhssbb"])),) if name == "cotlens" else ()
    tab.close()
    return f"{name:<20}" + "".join(f"{number:>11,.2f}" for number in (*numbers, *frames))


def random_trace(n: int, *, seed: int, k: int = 0) -> tuple[Trace, ScoredTrace]:
    """A trace of n tokens in sentences of 12 words, with exponential scores."""
    draw = np.random.default_rng(seed)
    words = [
        WORDS[i] + (".\n" if j % 12 == 11 else "")
        for j, i in enumerate(draw.integers(0, len(WORDS), n))
    ]
    text = "<think>" + " ".join(words) + "</think>"
    starts = np.cumsum([7, *(len(word) + 1 for word in words[:-1])])
    entropy = draw.exponential(0.5, n).astype(np.float32)
    values = {
        "entropy": entropy,
        "logprob": -entropy[::-1],
        "rank": draw.geometric(0.3, n).astype(np.float32),
    }
    if k:
        values |= {
            "kl": entropy / 2,
            "top_ids": np.minimum(draw.zipf(1.3, (n, k)), 150_000).astype(np.float32),
        }
        values |= {"top_logprobs": -np.sort(draw.exponential(2, (n, k)), axis=1).astype(np.float32)}
    trace = Trace(id=f"t{seed}", completion=text)
    return trace, ScoredTrace(trace.id, tuple(range(n)), tuple(starts.tolist()), values)


def naive(trace: Trace, scores: ScoredTrace) -> Page:
    """A first attempt: a span for every token, its colour in a style, its numbers in a title."""
    assert scores.token_starts
    starts = [*scores.token_starts, len(trace.completion)]
    spans = (
        f'<span style="background:rgba(230,150,40,{min(e / 3, 1):.3f})" '
        f'title="entropy {e:.3f}, log-prob {p:.3f}">'
        f"{html.escape(trace.completion[a:b])}</span>"
        for a, b, e, p in zip(
            starts, starts[1:], scores.values["entropy"], scores.values["logprob"], strict=False
        )
    )
    look = "height:100%;overflow:auto;margin:0;font:15px/1.6 sans-serif;white-space:pre-wrap"
    head = f"<!doctype html><meta charset=utf-8><style>html{{height:100%}}body{{{look}}}</style>"
    return Page(head + "".join(spans) + "<script>window.naive = true</script>")


def data_of(page: Page) -> str:
    """The block of the page's one trace."""
    found = re.search(r'id="a0">(.*?)</script>', page.html, re.DOTALL)
    assert found
    return found[1]


if __name__ == "__main__":
    main()
