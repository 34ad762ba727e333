"""A guard over every prefix of a thought, with the prefix cached or read again, in one run.

    python benchmarks/guard.py

A random Llama of 512 dimensions stands in for the guard: the ratio depends on lengths, not on
weights.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from judges.stand_ins import make_guard
from tiny import tiny_model

from cotlens.judges.local import LlamaGuard

STEPS = ["This is a step of a thought that goes on for a while, as they do. "] * 100
SHAPE = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 16384,
}  # fmt: skip


def from_scratch(guard: LlamaGuard, steps: list[str]) -> list[float]:
    """P(unsafe) after each step, every prefix read from its beginning."""
    head, tail = guard.render("P", "HOLE").split("HOLE")
    found = []
    for n in range(1, len(steps) + 1):
        middle = [token for step in steps[:n] for token in guard._encode(step)]
        ids = torch.tensor([[*guard._encode(head), *middle, *guard._encode(tail + guard.stem)]])
        with torch.inference_mode():
            logits = guard.network(input_ids=ids, use_cache=False, logits_to_keep=1).logits
        found.append(guard._mix(logits[0, -1]))
    return found


def main() -> None:
    """Times the kept prefix before and after the other way, and compares their probabilities."""
    torch.set_num_threads(2)
    guard = make_guard(LlamaGuard, context=SHAPE["max_position_embeddings"])
    guard.network = tiny_model(len(guard.tokenizer), **SHAPE)
    seconds = []
    for way in (guard.judge_steps, lambda _, steps: from_scratch(guard, steps), guard.judge_steps):
        start = time.perf_counter()
        found = way("P", STEPS)
        seconds.append((time.perf_counter() - start, found))
    (first, kept), (scratch_seconds, scratch), (second, _) = seconds
    ratio = scratch_seconds / max(first, second)
    apart = max(abs(a - b) for a, b in zip(kept, scratch, strict=True))
    print(
        f"{len(STEPS)} steps: prefix kept {first:.2f} and {second:.2f} s, from scratch "
        f"{scratch_seconds:.2f} s"
    )
    print(f"{ratio:.1f} times as fast (aim: 5); largest difference of P(unsafe): {apart:.1e}")


if __name__ == "__main__":
    main()
