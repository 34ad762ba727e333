"""Speed, memory and error of token scoring, as ratios in one run: `make bench`.

1. The head: entropy, log-prob, varentropy, rank and the top 20 in one pass, compared with its own
   bare matrix product (the time spent in `mm` within the same call), with the naive ways, and with
   TRL's functions.
2. The whole pass of a random model of Qwen3-0.6B's shape, compared with the pass that stops at the
   hidden states.
3. Padding: tokens wasted on the length distribution of real traces.

Inputs are random: three rows in four lie near the word they predict, as in a model that knows its
language, the others are drawn at random. On a GPU the sizes grow to those of a 7B model and 32,768
tokens.

    python benchmarks/entropy.py [--fast] [--only head|pass|padding]
"""

import argparse
import ctypes
import gzip
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from trl.kernels.chunked_logprob import ChunkedLogProbFunction
from trl.trainer.utils import (
    _CHUNKED_LOGPROB_CHUNK_SIZE,
    entropy_from_logits,
    selective_log_softmax,
)

from cotlens.models import scores
from cotlens.models.batches import batches
from cotlens.models.score import TOKENS_PER_BATCH
from cotlens.models.scores import Head, score_hidden

DATA = Path(os.environ.get("COTLENS_DATA", Path(__file__).parents[2] / "shared" / "data"))
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
V = 151_936


def main() -> None:
    """Prints every table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--fast", action="store_true", help="an eighth of the tokens, to see that it runs"
    )
    parser.add_argument("--only", choices=["head", "pass", "padding"], help="one part")
    options = parser.parse_args()
    fast, only = 8 if options.fast else 1, options.only
    machine = (
        torch.cuda.get_device_name()
        if GPU
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    sys.stdout.reconfigure(line_buffering=True)
    print(f"{machine}; torch {torch.__version__}, trl {version('trl')}; V = {V:,}\n")
    if only in (None, "head"):
        for t, d in ((32_768, 3584), (32_768, 1024)) if GPU else ((2048, 1024), (2048, 3584)):
            measure_head(t // fast, d)
    if only in (None, "pass"):
        measure_pass([n // fast for n in ((4096, 32_768) if GPU else (512, 1536))])
    if only in (None, "padding"):
        measure_padding()


# --- the head --------------------------------------------------------------------------------


def measure_head(t: int, d: int) -> None:
    """One table: every way of getting the numbers from hidden states."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if GPU else torch.float32
    weight = (torch.randn(V, d, device=DEVICE) * 2 / d**0.5).to(dtype)
    hidden, targets = torch.randn(t, d, device=DEVICE), torch.randint(0, V, (t,), device=DEVICE)
    near = 3 * t // 4
    hidden[:near] += 6 * weight[targets[:near]].float()
    hidden = hidden.to(dtype)
    head = Head(weight)

    def bare() -> None:
        out = torch.empty(min(t, 2048), 2048, device=DEVICE, dtype=dtype)
        for row in range(0, t, 2048):
            part = hidden[row : row + 2048]
            for first in range(0, V - 2047, 2048):
                torch.mm(part, weight[first : first + 2048].T, out=out[: len(part)])

    def logits() -> torch.Tensor:
        return hidden @ weight.T

    ways: dict[str, Callable[[], object]] = {
        "cotlens: entropy, log-prob, varentropy, rank": lambda: score_hidden(hidden, targets, head),
        "cotlens: the same and the top 20": lambda: score_hidden(hidden, targets, head, top_k=20),
        f"TRL chunked (tile {_CHUNKED_LOGPROB_CHUNK_SIZE:,}): entropy, log-prob": lambda: (
            trl_chunked(hidden, targets, weight)
        ),
    }
    if not GPU or t * V * 20 < 60e9:
        ways["naive, log_softmax of all logits: entropy, log-prob"] = lambda: naive(
            logits(), targets, False
        )
        ways["naive, the same five"] = lambda: naive(logits(), targets, True)
        ways["TRL on all logits: entropy, log-prob"] = lambda: trl_full(logits(), targets)
    measured = {name: measure(way) for name, way in {"bare matrix product": bare, **ways}.items()}
    base, _ = measured["bare matrix product"]
    print(f"head, T = {t:,}, d = {d:,}, {str(dtype).removeprefix('torch.')}")
    print(f"{'':54} {'x bare mm':>9} {'extra MB':>9}")
    for name, (seconds, memory) in measured.items():
        print(f"{name:54} {seconds / base:9.2f} {memory:9,.0f}")
    if not GPU:
        for k in (0, 20):
            ratio = own_product(hidden, targets, head, k)
            print(f"{f'cotlens, top {k}: whole call / mm within the call':54} {ratio:9.3f}")
    print(f"{'error against float64 on 64 rows, nats':54} {error(hidden, targets, head):9.1e}\n")


def naive(logits: torch.Tensor, targets: torch.Tensor, all_five: bool) -> object:
    """What a script does with `model(...).logits`."""
    logp = logits.float().log_softmax(-1)
    p = logp.exp()
    entropy = -(p * logp).sum(-1)
    own = logp.gather(1, targets[:, None])
    if not all_five:
        return entropy, own
    rank = 1 + (logp > own).sum(-1)
    return (
        entropy,
        own,
        rank,
        (p * logp.square()).sum(-1) - entropy.square(),
        logp.topk(20).values.exp().sum(-1),
    )


def trl_full(logits: torch.Tensor, targets: torch.Tensor) -> object:
    """TRL's two functions on logits that are already there."""
    with torch.inference_mode():
        return entropy_from_logits(logits), selective_log_softmax(logits, targets)


def trl_chunked(hidden: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor) -> object:
    """TRL's function from hidden states at its default tile."""
    with torch.no_grad():
        return ChunkedLogProbFunction.apply(
            hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",)
        )


def measure(way: Callable[[], object], repeats: int = 3) -> tuple[float, float]:
    """Best seconds of a few calls, and megabytes held at the peak beyond what was held before."""
    best, peak = float("inf"), 0.0
    for _ in range(repeats):
        watch = _Peak()
        start = time.perf_counter()
        with watch:
            way()
            if GPU:
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        peak = max(peak, watch.megabytes)
    return best, peak


class _Peak:
    """Memory of this process, read every two milliseconds; on a GPU the allocator's own number."""

    def __enter__(self) -> "_Peak":
        self.running = True
        ctypes.CDLL(None).malloc_trim(
            0
        )  # return what an earlier call has freed, or this call would reuse it unseen
        if GPU:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        self.before = self.most = _resident()
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, _resident())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.running = False
        if GPU:
            self.megabytes = (torch.cuda.max_memory_allocated() - self.before) / 2**20
        else:
            self.thread.join()
            self.megabytes = (self.most - self.before) / 2**20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def own_product(hidden: torch.Tensor, targets: torch.Tensor, head: Head, k: int) -> float:
    """Time of a call over the time it spends in `mm`: the cost of the numbers beyond the product.

    The least of three calls counts.
    """
    spent, real, ratios = [0.0], torch.mm, []

    def timed(*args, **options):
        start = time.perf_counter()
        try:
            return real(*args, **options)
        finally:
            spent[0] += time.perf_counter() - start

    for _ in range(3):
        scores.torch.mm, spent[0] = timed, 0.0
        start = time.perf_counter()
        score_hidden(hidden, targets, head, top_k=k)
        ratios.append((time.perf_counter() - start) / spent[0])
        scores.torch.mm = real
    return min(ratios)


def error(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> float:
    """Largest error of entropy or log-prob against float64."""
    rows = torch.linspace(0, len(hidden) - 1, 64).long()
    logp = (hidden[rows].double() @ head.weight.double().T).log_softmax(-1)
    found = score_hidden(hidden[rows], targets[rows], head)
    entropy = -(logp.exp() * logp).sum(-1)
    own = logp.gather(1, targets[rows, None])[:, 0]
    return max(
        float((found.entropy - entropy).abs().max()), float((found.logprob - own).abs().max())
    )


# --- the whole pass --------------------------------------------------------------------------


def measure_pass(lengths: list[int]) -> None:
    """Scoring against stopping at the hidden states, of a random model of Qwen3-0.6B's shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=V,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        max_position_embeddings=40_960,
        dtype=torch.bfloat16 if GPU else torch.float32,
    )
    with torch.device(DEVICE):
        network = Qwen3ForCausalLM(config).eval().to(config.dtype)
    head = Head(network.lm_head.weight)
    print(
        f"{'whole pass of the 0.6B shape, x hidden states only':54}"
        + "".join(f" {f'T = {n:,}':>11}" for n in lengths)
    )
    table: dict[str, list[float]] = {}
    for n in lengths:
        ids = torch.randint(0, V, (1, n + 1), device=DEVICE)
        targets = ids[0, 1:]

        def hidden(ids=ids) -> torch.Tensor:
            with torch.inference_mode():
                return network.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[0]

        def full(ids=ids, targets=targets) -> object:
            with torch.inference_mode():
                return naive(
                    network(input_ids=ids[:, :-1], use_cache=False).logits[0], targets, False
                )

        ways = {
            "hidden states only": hidden,
            "cotlens: entropy, log-prob, varentropy, rank": lambda h=hidden, t=targets: (
                score_hidden(h(), t, head)
            ),
            "cotlens: the same and the top 20": lambda h=hidden, t=targets: score_hidden(
                h(), t, head, top_k=20
            ),
        }
        if not GPU or n < 8192:
            ways["model(...).logits and log_softmax"] = full
        times = {name: min(measure(way, 1)[0] for _ in range(3)) for name, way in ways.items()}
        for name, seconds in times.items():
            table.setdefault(name, []).append(seconds / times["hidden states only"])
    for name, ratios in table.items():
        print(f"{name:54}" + "".join(f" {ratio:11.2f}" for ratio in ratios))
    print()


# --- padding ---------------------------------------------------------------------------------


def measure_padding() -> None:
    """Tokens wasted on the lengths of real traces.

    Batches are groups of similar length, or traces in the order they come.
    """
    lengths = []
    for path in sorted((DATA / "traces").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts = (
            row.get("raw") or (row.get("thinking") or "") + (row.get("answer") or "")
            for row in rows
        )
        lengths += [len(text) // 4 + 1 for text in texts]
    if not lengths:
        print(f"padding: no real traces at {DATA}")
        return
    print(
        f"padding, {len(lengths):,} real traces (4 characters a token): share of computed tokens "
        "that is padding"
    )
    for budget in (*TOKENS_PER_BATCH.values(),):
        groups = batches(lengths, budget)
        padded = sum(len(group) * lengths[group[0]] for group in groups)
        arrival = sum(8 * max(lengths[i : i + 8]) for i in range(0, len(lengths), 8))
        print(
            f"budget {budget:6,}: {1 - sum(lengths) / padded:6.1%} in {len(groups)} groups "
            f"(eight at a time as they come: {1 - sum(lengths) / arrival:.1%})"
        )


if __name__ == "__main__":
    main()
