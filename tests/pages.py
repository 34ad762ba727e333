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
    """Invented scores: a token is a character, or a quarter of one that takes four bytes in UTF-8."""
    starts = []
    ids = []
    for start, character in enumerate(trace.completion):
        n_tokens = 4 if ord(character) > 0xFFFF else 1
        starts += [start] * n_tokens
        ids += [ord(character)] * n_tokens

    draw = np.random.default_rng(seed)
    n = len(starts)
    values = {
        "entropy": draw.exponential(0.7, n),
        "kl": draw.exponential(0.7, n),
        "logprob": -draw.exponential(1, n),
        "rank": draw.integers(1, 2000, n),
    }

    # The k likeliest words are the token and the characters after it, of probability 1/2, 1/4, ...
    if k:
        probabilities = 0.5 ** np.arange(1, k + 1)
        values["top_ids"] = np.array(ids)[:, None] + np.arange(k)
        logprobs = np.log(probabilities)
        values["top_logprobs"] = np.tile(logprobs, (n, 1))

    values = {name: column.astype(np.float32) for name, column in values.items()}
    return ScoredTrace(trace.id, tuple(ids), tuple(starts), values)


def unpack(packed):
    """The numbers in `WIDTH:BASE64`."""
    width, text = packed.split(":")
    return np.frombuffer(base64.b64decode(text), f"<u{width}")


def blocks_of(page):
    """The JSON values in a page, by the ids of their elements."""
    blocks = re.findall(
        r'<script type="application/json" id="(\w+)">(.*?)</script>', page.html, re.DOTALL
    )
    return {name: json.loads(text) for name, text in blocks}
