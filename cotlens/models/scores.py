"""Hidden states and an output head to per-token numbers: entropy, log-prob, rank and more, exact and in little memory.

`model` brings the hidden states and calls this room; nothing here knows a file, a trace or a tokenizer.

The logits of T tokens over V words are never held: the vocabulary is walked in tiles, and each row keeps sums over
y = z - m, the logits less the largest so far. With s = sum e^y, u = sum y e^y and w = sum y^2 e^y,

    entropy     = ln s - u/s                        varentropy = w/s - (u/s)^2
    log-prob(t) = z_t - m - ln s                    rank(t)    = 1 + #{v: z_v > z_t}

When the largest rises by d, s, u and w move on exactly: e^-d (s, u - d s, w - 2 d u + d^2 s). Everything is float32,
whatever the weights are; shifted sums keep the error of an entropy near 1e-6 nats where a float32 log-softmax over
150,000 words has 1e-4.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

SCRATCH_BYTES = (
    26 * 2**20
)  # of the tiles of one call on a CPU, however many tokens and words there are
SCRATCH_BYTES_GPU = 120 * 2**20
TILE_WORDS = 2048
BLOCK_ROWS = (
    256  # rows whose tile stays in a core's cache while it is summed; a GPU takes all rows at once
)
_FLOOR = -1e30  # below every logit that is not masked; finite, so that differences are
_DEEPEST = (
    -1e4
)  # e^-10000 is 0: masked words count as this far below the largest, which keeps y e^y finite


class Head(NamedTuple):
    """The output head of a language model: logits = softcap(scale (hidden weightᵀ + bias)).

    Attributes:
        weight: (V, d), any floating type, on the device of the hidden states.
        bias: (V,) or None; -inf masks a word.
        scale: Cohere's `logit_scale`, or one over Granite's `logits_scaling`.
        softcap: Gemma 2's c in c tanh(z/c), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None


class Scores(NamedTuple):
    """One entry per position, float32, nats. A row whose words are all masked, or not finite, is NaN throughout.

    Attributes:
        entropy: (T,) of the whole distribution, within [0, ln V].
        logprob: (T,) of the target.
        rank: (T,) of the target among the words, from 1; words that tie with it stand behind it. A word whose logit
            lies within rounding of the target's (1e-5) may count as either.
        varentropy: (T,) variance of -ln p under p, in nats squared.
        top_ids: (T, k) the k likeliest words, likeliest first.
        top_logprobs: (T, k).
        kl: (T,) KL(p || q) to the reference's distribution q, inf where q masks a word that p does not; None without a
            reference.
        reverse_kl: (T,) KL(q || p), or None.
        reference_entropy: (T,) of q, or None.
        reference_logprob: (T,) of the target under q, or None.
    """

    entropy: Tensor
    logprob: Tensor
    rank: Tensor
    varentropy: Tensor
    top_ids: Tensor
    top_logprobs: Tensor
    kl: Tensor | None = None
    reverse_kl: Tensor | None = None
    reference_entropy: Tensor | None = None
    reference_logprob: Tensor | None = None

    @property
    def top_mass(self) -> Tensor:
        """(T,) Probability of the k likeliest words together; 0 for k = 0."""
        return self.top_logprobs.exp().sum(-1)

    @property
    def margin(self) -> Tensor:
        """(T,) Log-prob of the likeliest word less that of the second; needs k of at least 2."""
        if self.top_logprobs.shape[-1] < 2:
            raise ValueError("the margin needs the two likeliest words: score with top_k=2 or more")
        return self.top_logprobs[:, 0] - self.top_logprobs[:, 1]


@torch.inference_mode()
def score_hidden(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    reference: tuple[Tensor, Head] | None = None,
    tile: int = TILE_WORDS,
) -> Scores:
    """Scores of `targets` under the distributions that a head makes of final hidden states.

    Args:
        hidden: (T, d) states behind the last norm; row i is the state that predicts target i.
        targets: (T,) word numbers.
        head: the output head.
        temperature: the logits are divided by it, after softcap and scale.
        top_k: how many of the likeliest words to return.
        reference: hidden states and head of a second model over the same tokens and vocabulary, for the KL columns.
        tile: words per tile; the result does not depend on it beyond rounding.

    Raises:
        ValueError: for shapes that do not fit, a target outside the vocabulary, or a temperature that is not positive.
    """
    _check(hidden, targets, head, temperature)
    sources = [(hidden, head)]
    if reference is not None:
        _check(reference[0], targets, reference[1], temperature)
        if reference[1].weight.shape[0] != head.weight.shape[0]:
            raise ValueError(
                f"KL needs one vocabulary: the models have {head.weight.shape[0]:,} and "
                f"{reference[1].weight.shape[0]:,} words"
            )
        sources.append(reference)
    tile, rows = _plan(sources, tile)
    parts = []
    for first in range(0, max(1, len(hidden)), rows):
        part = slice(first, first + rows)
        walks = [
            _Walk.over_head(states[part], targets[part], own, temperature, tile)
            for states, own in sources
        ]
        parts.append(_score(walks, targets[part], top_k))
    return _join(parts)


@torch.inference_mode()
def score_logits(
    logits: Tensor, targets: Tensor, *, top_k: int = 0, tile: int = TILE_WORDS
) -> Scores:
    """Scores of `targets` from logits (T, V) that are there already; -inf masks a word. Else as `score_hidden`."""
    parts = []
    for first in range(0, max(1, len(logits)), 2048):
        part = slice(first, first + 2048)
        parts.append(
            _score([_Walk.over_logits(logits[part], targets[part], tile)], targets[part], top_k)
        )
    return _join(parts)


def _check(hidden: Tensor, targets: Tensor, head: Head, temperature: float) -> None:
    if (
        hidden.ndim != 2
        or targets.shape != hidden.shape[:1]
        or hidden.shape[1] != head.weight.shape[1]
    ):
        raise ValueError(
            "expected hidden (T, d), targets (T,) and a head (V, d), got "
            f"{tuple(hidden.shape)}, {tuple(targets.shape)} and {tuple(head.weight.shape)}"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be above 0 and finite, got {temperature}")
    n_words = head.weight.shape[0]
    if len(targets) and not (int(targets.min()) >= 0 and int(targets.max()) < n_words):
        raise ValueError(
            f"targets {int(targets.min())} to {int(targets.max())}, but the head has {n_words:,} words"
        )


def _plan(sources: list[tuple[Tensor, Head]], tile: int) -> tuple[int, int]:
    """Words per tile and rows per pass over the vocabulary that fit into the scratch memory.

    Weights and states that are not float32 are made so tile by tile on a CPU, which takes room too.
    """
    on_gpu = sources[0][0].is_cuda
    room = SCRATCH_BYTES_GPU if on_gpu else SCRATCH_BYTES
    if any(head.weight.dtype != torch.float32 for _, head in sources):
        widest = max(hidden.shape[1] for hidden, _ in sources)
        tile = min(tile, max(64, room // (4 * 4 * widest) // 64 * 64))
    fixed = row = 0
    for hidden, head in sources:
        d = hidden.shape[1]
        fixed += (
            4 * tile * (d * (head.weight.dtype != torch.float32) + 3 * BLOCK_ROWS * (not on_gpu))
        )
        row += 4 * tile * (1 + 3 * on_gpu) + 4 * d * (hidden.dtype != torch.float32)
    return min(tile, sources[0][1].weight.shape[0]), max(
        64, min(8192 if on_gpu else 2048, (room - fixed) // row)
    )


# --- tiles of logits -------------------------------------------------------------------------------------------
class _Walk(NamedTuple):
    """The logits of some rows, tile by tile, with the target's own logit known beforehand."""

    target_logits: Tensor  # (R,)
    tiles: Callable[
        [], Iterator[tuple[int, Tensor]]
    ]  # first word of a tile, and its logits (R, C), free to overwrite

    @classmethod
    def over_head(
        cls, hidden: Tensor, targets: Tensor, head: Head, temperature: float, tile: int
    ) -> "_Walk":
        wide = hidden.float()
        own = wide.new_empty(len(wide))
        for first in range(0, len(wide), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            own[part] = torch.linalg.vecdot(wide[part], head.weight[targets[part]].float())
        if head.bias is not None:
            own += head.bias[targets].float()
        own = _shape_logits(own, head, temperature)

        def tiles() -> Iterator[tuple[int, Tensor]]:
            n_words = head.weight.shape[0]
            logits = wide.new_empty(len(wide), min(tile, n_words))
            for first in range(0, n_words, tile):
                weight = head.weight[first : first + tile]
                out = (
                    logits
                    if len(weight) == logits.shape[1]
                    else wide.new_empty(len(wide), len(weight))
                )
                if hidden.is_cuda and hidden.dtype == weight.dtype != torch.float32:
                    out = torch.mm(
                        hidden, weight.T, out_dtype=torch.float32
                    )  # 16 bits in, 32 bits out: full speed
                else:
                    torch.mm(wide, weight.float().T, out=out)
                if head.bias is not None:
                    out += head.bias[first : first + tile].float()
                yield first, _shape_logits(out, head, temperature)

        return cls(own, tiles)

    @classmethod
    def over_logits(cls, logits: Tensor, targets: Tensor, tile: int) -> "_Walk":
        def tiles() -> Iterator[tuple[int, Tensor]]:
            for first in range(0, logits.shape[1], tile):
                yield first, logits[:, first : first + tile].to(torch.float32, copy=True)

        return cls(logits.gather(1, targets[:, None])[:, 0].float(), tiles)


def _shape_logits(logits: Tensor, head: Head, temperature: float) -> Tensor:
    """What a model does to its raw logits, in place."""
    if head.scale != 1.0:
        logits.mul_(head.scale)
    if head.softcap is not None:
        logits.div_(head.softcap).tanh_().mul_(head.softcap)
    return logits if temperature == 1.0 else logits.div_(temperature)


# --- running sums ----------------------------------------------------------------------------------------------
class _Sums:
    """Of one model's rows: the largest logit so far, and s, u, w relative to it."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.largest = torch.full((n,), _FLOOR, device=device)
        self.s, self.u, self.w = torch.zeros(3, n, device=device)

    def raise_to(self, rows: slice, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts the sums of `rows` to a new largest logit; returns the shift (<= 0) and its exponential."""
        new = torch.maximum(self.largest[rows], largest)
        whole = self.largest[rows] - new
        shift = whole.clamp(min=-120)  # e^-120 is 0: where the sums are, shift^2 is not
        decay = shift.exp()
        s, u, w = self.s[rows], self.u[rows], self.w[rows]
        self.w[rows] = decay * (w + 2 * shift * u + shift.square() * s)
        self.u[rows] = decay * (u + shift * s)
        self.s[rows] = decay * s
        self.largest[rows] = new
        return whole, decay

    def entropy(self, n_words: int) -> Tensor:
        """Entropy of every row, NaN where nothing was summed."""
        entropy = (self.s.log() - self.u / self.s).clamp_(0, math.log(n_words))
        return torch.where(self.s > 0, entropy, torch.nan)

    def varentropy(self) -> Tensor:
        return (self.w / self.s - (self.u / self.s).square()).clamp_(min=0)

    def logprob(self, logits: Tensor) -> Tensor:
        """Log-prob of a logit (R,) or logits (R, k) of every row; a masked word has -inf."""
        return torch.where(
            self._column(logits, self.s) > 0,
            logits - self._column(logits, self.largest) - self._column(logits, self.s).log(),
            torch.nan,
        ).clamp_(max=0)

    @staticmethod
    def _column(like: Tensor, values: Tensor) -> Tensor:
        return values if like.ndim == 1 else values[:, None]


def _score(walks: list[_Walk], targets: Tensor, top_k: int) -> Scores:
    """One pass over the vocabulary for some rows of one model, or of two at once."""
    n, device = len(targets), targets.device
    sums = [_Sums(n, device) for _ in walks]
    above, top = torch.zeros(n, device=device), _Top(n, top_k, device)
    cross = torch.zeros(2, n, device=device)  # sum e^y (y - x) under p, and sum e^x (x - y) under q
    apart = torch.zeros(
        2, n, dtype=torch.bool, device=device
    )  # a word that only q masks, and one that only p masks
    spare: list[Tensor] = []
    n_words = 0
    for tiles in zip(*(walk.tiles() for walk in walks), strict=True):
        first, logits = tiles[0]
        n_words = first + logits.shape[1]
        for walk, (_, own) in zip(walks, tiles, strict=True):
            _put_targets(own, targets - first, walk.target_logits)
        block = n if logits.is_cuda else BLOCK_ROWS
        for start in range(0, n, block):
            rows = slice(start, min(start + block, n))
            spare = _scratch(spare, 2 * len(walks), logits[rows])
            own_spare = (
                spare
                if len(spare[0]) == len(logits[rows])
                else [part[: len(logits[rows])] for part in spare]
            )
            blocks = _block_maxima(logits[rows])
            largest = blocks.amax(1)
            _count_above(
                above[rows], logits[rows], largest, walks[0].target_logits[rows], own_spare[0]
            )
            top.add(rows, first, logits[rows], blocks)
            if len(walks) == 1:
                _add(sums[0], rows, logits[rows], largest, own_spare)
            else:
                _add_both(sums, cross, rows, [own[rows] for _, own in tiles], own_spare)
                masked = [own[rows].isneginf() for _, own in tiles]
                apart[0, rows] |= (masked[1] & ~masked[0]).any(1)
                apart[1, rows] |= (masked[0] & ~masked[1]).any(1)
    p, own_logits = sums[0], walks[0].target_logits
    known = p.s > 0
    scores = Scores(
        entropy=p.entropy(n_words),
        logprob=p.logprob(own_logits),
        rank=torch.where(known, 1 + above, torch.nan),
        varentropy=torch.where(known, p.varentropy(), torch.nan),
        top_ids=top.ids,
        top_logprobs=p.logprob(top.logits),
    )
    return (
        scores
        if len(walks) == 1
        else _with_reference(scores, sums, cross, apart, walks[1], n_words)
    )


def _with_reference(
    scores: Scores, sums: list[_Sums], cross: Tensor, apart: Tensor, walk: _Walk, n_words: int
) -> Scores:
    p, q = sums
    ratio = p.s.log() - q.s.log()
    return scores._replace(
        kl=torch.where(apart[0], torch.inf, (cross[0] / p.s - ratio).clamp_(min=0)),
        reverse_kl=torch.where(apart[1], torch.inf, (cross[1] / q.s + ratio).clamp_(min=0)),
        reference_entropy=q.entropy(n_words),
        reference_logprob=q.logprob(walk.target_logits),
    )


def _put_targets(logits: Tensor, columns: Tensor, target_logits: Tensor) -> None:
    """Puts each row's target logit in its place, if that lies in this tile, so that it never exceeds itself."""
    inside = (columns >= 0) & (columns < logits.shape[1])
    at = columns.clamp(0, logits.shape[1] - 1)[:, None]
    logits.scatter_(
        1, at, torch.where(inside[:, None], target_logits[:, None], logits.gather(1, at))
    )


def _scratch(spare: list[Tensor], n: int, like: Tensor) -> list[Tensor]:
    """Buffers of at least the tile's rows and exactly its columns; fresh memory for every tile would cost more."""
    if spare and len(spare[0]) >= len(like) and spare[0].shape[1] == like.shape[1]:
        return spare
    return [torch.empty(like.shape, device=like.device) for _ in range(n)]


def _block_maxima(logits: Tensor) -> Tensor:
    """(R, B) the largest of every 64 words: one look at the tile serves the maximum and the search for top words."""
    width = 64 if logits.shape[1] % 64 == 0 else logits.shape[1]
    return logits.unflatten(1, (-1, width)).amax(2)


def _count_above(
    above: Tensor, logits: Tensor, largest: Tensor, own: Tensor, spare: Tensor
) -> None:
    """Adds the number of words above the target; most targets are the likeliest word, and most tiles hold none."""
    rows = (
        largest.new_empty(len(largest)) if logits.is_cuda else (largest > own).nonzero()[:, 0]
    )  # a GPU would wait
    if len(rows) == len(logits):
        above += torch.gt(logits, own[:, None], out=spare).sum(1)
    elif len(rows):
        above[rows] += (logits[rows] > own[rows, None]).sum(1)


def _shifted(logits: Tensor, largest: Tensor, y: Tensor, e: Tensor) -> None:
    """Writes y = z - m into one buffer and e^y into the other."""
    torch.sub(logits, largest[:, None], out=y).clamp_(min=_DEEPEST)
    torch.exp(y, out=e)


def _add(sums: _Sums, rows: slice, logits: Tensor, largest: Tensor, spare: list[Tensor]) -> None:
    """Adds a tile to the sums of one model."""
    sums.raise_to(rows, largest)
    _shifted(logits, sums.largest[rows], *spare)
    _add_moments(sums, rows, *spare)


def _add_moments(sums: _Sums, rows: slice, y: Tensor, e: Tensor) -> None:
    """Adds the sums of e^y, y e^y and y^2 e^y; `e` is used up."""
    sums.s[rows] += e.sum(1)
    e.mul_(y)
    sums.u[rows] += e.sum(1)
    sums.w[rows] += torch.linalg.vecdot(e, y)


def _add_both(
    sums: list[_Sums], cross: Tensor, rows: slice, logits: list[Tensor], spare: list[Tensor]
) -> None:
    """Adds a tile of two models to their sums and to the two cross sums, which shift as the largest logits rise."""
    (y, e_y, x, e_x) = spare
    before = [own.s[rows].clone() for own in sums]
    (shift_y, decay_y), (shift_x, decay_x) = (
        own.raise_to(rows, tile.amax(1)) for own, tile in zip(sums, logits, strict=True)
    )
    cross[0, rows] = decay_y * (cross[0, rows] + (shift_y - shift_x) * before[0])
    cross[1, rows] = decay_x * (cross[1, rows] + (shift_x - shift_y) * before[1])
    _shifted(logits[0], sums[0].largest[rows], y, e_y)
    _shifted(logits[1], sums[1].largest[rows], x, e_x)
    difference = y - x
    cross[0, rows] += torch.linalg.vecdot(e_y, difference)
    cross[1, rows] -= torch.linalg.vecdot(e_x, difference)
    _add_moments(sums[0], rows, y, e_y)
    _add_moments(sums[1], rows, x, e_x)


class _Top:
    """The k largest logits of every row so far, and their words."""

    def __init__(self, n: int, k: int, device: torch.device) -> None:
        self.k = k
        self.logits = torch.full((n, k), -torch.inf, device=device)
        self.ids = torch.full((n, k), -1, device=device)  # -1: fewer than k words are not masked

    def add(self, rows: slice, first: int, logits: Tensor, blocks: Tensor) -> None:
        """Merges the tile's words that exceed the k-th so far: after a few tiles they are rare, so blocks are asked."""
        if not self.k:
            return
        width = logits.shape[1] // blocks.shape[1]
        least = self.logits[rows, -1]
        row, block = (blocks > least[:, None]).nonzero(as_tuple=True)
        if len(row) > 8 * len(logits):  # the first tiles, where nearly every block counts
            few, at = logits.topk(min(self.k, logits.shape[1]))
            return self._merge(rows, few, first + at)
        values = logits.unflatten(1, (-1, width))[row, block]
        found, lane = (values > least[row, None]).nonzero(as_tuple=True)
        if not len(found):
            return
        row, word = row[found], first + block[found] * width + lane
        changed, index, counts = torch.unique_consecutive(
            row, return_inverse=True, return_counts=True
        )
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[index]
        few = torch.full((len(changed), int(counts.max())), -torch.inf, device=values.device)
        words = torch.full(few.shape, -1, device=values.device)
        few[index, place], words[index, place] = values[found, lane], word
        self._merge(changed + rows.start, few, words)

    def _merge(self, rows: slice | Tensor, logits: Tensor, words: Tensor) -> None:
        """Keeps the k largest of what `rows` have and what is new to them."""
        self.logits[rows], order = torch.cat([self.logits[rows], logits], 1).topk(self.k)
        ids = torch.cat([self.ids[rows], words], 1).gather(1, order)
        self.ids[rows] = torch.where(self.logits[rows].isneginf(), -1, ids)


def _join(parts: list[Scores]) -> Scores:
    return Scores(
        *(None if fields[0] is None else torch.cat(fields) for fields in zip(*parts, strict=True))
    )  # pyright: ignore[reportArgumentType]
