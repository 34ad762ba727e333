"""What the tests of the viewer share: texts, invented scores, and the data inside a page."""

import base64
import json
import re

import numpy as np

from cotlens.models.score import ScoredTrace

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


def unpack(packed):
    return np.frombuffer(base64.b64decode(packed[2:]), f"<u{packed[0]}")


def blocks_of(page):
    found = re.findall(
        r'<script type="application/json" id="(\w+)">(.*?)</script>', page.html, re.DOTALL
    )
    return {name: json.loads(text) for name, text in found}
