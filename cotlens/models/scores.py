"""Turn hidden states and an output head into entropy, log-prob, rank and KL of every token.

The logits of T tokens over V words are never held. The vocabulary is read in tiles, and `sums`
keeps running sums for each row, so the memory does not grow with V. Everything is float32, whatever
the type of the weights. The error of an entropy stays near 1e-6 nats, because the sums are relative
to the largest logit; a float32 log-softmax over 150,000 words has an error of 1e-4.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cotlens.models.sums import CrossSums, Sums, TopWords, count_above, group_maxima

# Memory for the tiles of one call, however many tokens and words there are.
SCRATCH_BYTES = 26 * 2**20
SCRATCH_BYTES_GPU = 120 * 2**20

# Words of a tile. The scores do not depend on it beyond rounding.
TILE_WORDS = 2048

# A CPU sums this many rows of a tile at once, so that they stay in a core's cache. A GPU sums all.
BLOCK_ROWS = 256

# Rows that share one pass over the vocabulary.
_LEAST_ROWS = 64
_MOST_ROWS = 2048
_MOST_ROWS_GPU = 8192


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
    """One entry per position, float32, in nats.

    A row whose words are all masked, or not finite, is NaN throughout.

    Attributes:
        entropy: (T,) of the whole distribution, within [0, ln V].
        logprob: (T,) of the target.
        rank: (T,) of the target among the words, from 1. Words with the same logit rank after it.
            A word within rounding of the target's logit (1e-5) may count as above it or not.
        varentropy: (T,) variance of -ln p under p, in nats squared.
        top_ids: (T, k) the k likeliest words, likeliest first; -1 where fewer are not masked.
        top_logprobs: (T, k).
        kl: (T,) KL(p || q) to the reference's distribution q, infinite where q masks a word that p
            does not; None without a reference.
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
        """(T,) Total probability of the k likeliest words; 0 for k = 0."""
        probabilities = self.top_logprobs.exp()
        return probabilities.sum(-1)

    @property
    def margin(self) -> Tensor:
        """(T,) Log-prob of the likeliest word less that of the second.

        Raises:
            ValueError: if k is below 2.
        """
        if self.top_logprobs.shape[-1] < 2:
            raise ValueError("the margin needs the two likeliest words: score with top_k=2 or more")
        first = self.top_logprobs[:, 0]
        second = self.top_logprobs[:, 1]
        return first - second


@torch.inference_mode()
def score_hidden(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    reference: tuple[Tensor, Head] | None = None,
) -> Scores:
    """Scores of `targets` under the distributions that a head makes of final hidden states.

    Args:
        hidden: (T, d) states after the last norm; row i is the state that predicts target i.
        targets: (T,) word ids.
        head: the output head.
        temperature: the logits are divided by it, after scale and softcap.
        top_k: how many of the likeliest words to return.
        reference: hidden states and head of a second model over the same tokens and vocabulary, for
            the KL columns.

    Raises:
        ValueError: for shapes that do not fit, a target outside the vocabulary, or a temperature
            that is not positive and finite.
    """
    _check_inputs(hidden, targets, head, temperature)
    sources = [(hidden, head)]
    if reference is not None:
        reference_hidden, reference_head = reference
        _check_inputs(reference_hidden, targets, reference_head, temperature)
        _check_vocabulary(head, reference_head)
        sources.append(reference)

    # An empty input gives one empty part.
    tile_words, n_rows = _plan(sources)
    parts = []
    for first in range(0, max(1, len(hidden)), n_rows):
        rows = slice(first, first + n_rows)
        row_targets = targets[rows]
        models = []
        for states, own_head in sources:
            row_states = states[rows]
            model = _logits_of_head(row_states, row_targets, own_head, temperature, tile_words)
            models.append(model)
        parts += _score_rows(models, row_targets, top_k)
    return _join(parts)


@torch.inference_mode()
def score_logits(logits: Tensor, targets: Tensor, *, top_k: int = 0) -> Scores:
    """Scores of `targets` from logits (T, V) in memory; -inf masks a word. See `score_hidden`."""
    n_rows = len(logits)
    parts = []
    for first in range(0, max(1, n_rows), _MOST_ROWS):
        rows = slice(first, first + _MOST_ROWS)
        row_targets = targets[rows]
        model = _logits_in_memory(logits[rows], row_targets)
        parts += _score_rows([model], row_targets, top_k)
    return _join(parts)


def _check_inputs(hidden: Tensor, targets: Tensor, head: Head, temperature: float) -> None:
    n_words, width = head.weight.shape
    is_matrix = hidden.ndim == 2 and hidden.shape[1] == width
    if not is_matrix or targets.shape != hidden.shape[:1]:
        raise ValueError(
            "expected hidden (T, d), targets (T,) and a head (V, d), got "
            f"{tuple(hidden.shape)}, {tuple(targets.shape)} and {tuple(head.weight.shape)}"
        )

    if not 0 < temperature < math.inf:
        raise ValueError(f"the temperature must be above 0 and finite, got {temperature}")

    if len(targets) == 0:
        return
    least = int(targets.min())
    most = int(targets.max())
    if least < 0 or most >= n_words:
        raise ValueError(f"targets {least} to {most}, but the head has {n_words:,} words")


def _check_vocabulary(head: Head, reference_head: Head) -> None:
    n_words = head.weight.shape[0]
    n_reference = reference_head.weight.shape[0]
    if n_words != n_reference:
        raise ValueError(
            f"KL needs one vocabulary: the models have {n_words:,} and {n_reference:,} words"
        )


def _plan(sources: list[tuple[Tensor, Head]]) -> tuple[int, int]:
    """Words of a tile, and rows of a pass over the vocabulary, that fit into the scratch memory."""
    on_gpu = sources[0][0].is_cuda
    budget = SCRATCH_BYTES_GPU if on_gpu else SCRATCH_BYTES

    # Weights that are not float32 are converted a tile at a time, into a quarter of the memory.
    tile_words = TILE_WORDS
    if any(head.weight.dtype != torch.float32 for _, head in sources):
        widest = max(hidden.shape[1] for hidden, _ in sources)
        affordable = budget // 4 // (4 * widest)
        affordable -= affordable % 64
        tile_words = min(tile_words, max(64, affordable))

    # The bytes that a tile takes whatever the rows, and those that each row adds.
    tile_bytes = 0
    row_bytes = 0
    for hidden, head in sources:
        width = hidden.shape[1]
        if head.weight.dtype != torch.float32:
            tile_bytes += 4 * tile_words * width
        if hidden.dtype != torch.float32:
            row_bytes += 4 * width

        # The logits of the row, and three buffers for the rows that are summed at once.
        row_bytes += 4 * tile_words
        if on_gpu:
            row_bytes += 3 * 4 * tile_words
        else:
            tile_bytes += 3 * 4 * tile_words * BLOCK_ROWS

    n_words = sources[0][1].weight.shape[0]
    most_rows = _MOST_ROWS_GPU if on_gpu else _MOST_ROWS
    affordable_rows = (budget - tile_bytes) // row_bytes
    n_rows = max(_LEAST_ROWS, min(most_rows, affordable_rows))
    return min(tile_words, n_words), n_rows


class _Logits(NamedTuple):
    """The logits of some rows under one model, in tiles of words.

    Attributes:
        of_targets: (R,) the logit of each row's target, known before the first tile.
        tiles: (R, C) the logits of each tile, free to overwrite.
    """

    of_targets: Tensor
    tiles: Iterator[Tensor]


def _logits_of_head(
    hidden: Tensor, targets: Tensor, head: Head, temperature: float, tile_words: int
) -> _Logits:
    states = hidden.float()

    # A block of rows at a time, because every row brings a row of the weights.
    of_targets = states.new_empty(len(states))
    for first in range(0, len(states), BLOCK_ROWS):
        rows = slice(first, first + BLOCK_ROWS)
        row_states = states[rows]
        row_targets = targets[rows]
        row_weights = head.weight[row_targets].float()
        of_targets[rows] = torch.linalg.vecdot(row_states, row_weights)

    if head.bias is not None:
        bias = head.bias[targets]
        of_targets += bias.float()
    _shape_logits(of_targets, head, temperature)

    tiles = _tiles_of_head(hidden, states, head, temperature, tile_words)
    return _Logits(of_targets, tiles)


def _tiles_of_head(
    hidden: Tensor, states: Tensor, head: Head, temperature: float, tile_words: int
) -> Iterator[Tensor]:
    """The tiles of a head's logits; `states` is `hidden` in float32."""
    n_rows = len(states)
    n_words = len(head.weight)
    buffer = states.new_empty(n_rows, tile_words)

    for first_word in range(0, n_words, tile_words):
        words = slice(first_word, first_word + tile_words)
        weight = head.weight[words]

        # A GPU multiplies 16 bits into 32 at full speed. Elsewhere the tile is converted first.
        if hidden.is_cuda and hidden.dtype == weight.dtype != torch.float32:
            logits = torch.mm(hidden, weight.T, out_dtype=torch.float32)
        else:
            logits = buffer
            if len(weight) < tile_words:
                logits = states.new_empty(n_rows, len(weight))
            torch.mm(states, weight.float().T, out=logits)

        if head.bias is not None:
            bias = head.bias[words]
            logits += bias.float()
        _shape_logits(logits, head, temperature)
        yield logits


def _shape_logits(logits: Tensor, head: Head, temperature: float) -> None:
    """Do in place what a model does to its raw logits, and divide by the temperature."""
    if head.scale != 1.0:
        logits.mul_(head.scale)
    if head.softcap is not None:
        logits.div_(head.softcap)
        logits.tanh_()
        logits.mul_(head.softcap)
    if temperature != 1.0:
        logits.div_(temperature)


def _logits_in_memory(logits: Tensor, targets: Tensor) -> _Logits:
    columns = targets[:, None]
    of_targets = logits.gather(1, columns)
    of_targets = of_targets[:, 0].float()
    tiles = _tiles_in_memory(logits)
    return _Logits(of_targets, tiles)


def _tiles_in_memory(logits: Tensor) -> Iterator[Tensor]:
    for tile in logits.split(TILE_WORDS, dim=1):
        # A copy, which may be overwritten.
        yield tile.to(torch.float32, copy=True)


def _score_rows(models: list[_Logits], targets: Tensor, top_k: int) -> list[Scores]:
    """Scores of some rows, a block at a time, from one pass over the vocabulary.

    Args:
        models: the logits of one model, or of a model and its reference.
        targets: (R,) word ids.
        top_k: how many of the likeliest words to return.
    """
    n_rows = len(targets)
    block_rows = max(1, n_rows)
    if not targets.is_cuda:
        block_rows = min(block_rows, BLOCK_ROWS)

    blocks = []
    for first in range(0, max(1, n_rows), block_rows):
        rows = slice(first, first + block_rows)
        of_targets = [model.of_targets[rows] for model in models]
        blocks.append(_Block(rows, of_targets, top_k))

    first_word = 0
    buffers = []
    n_buffers = 2 * len(models)
    tile_iterators = [model.tiles for model in models]
    for tiles in zip(*tile_iterators, strict=True):
        columns = targets - first_word
        for model, tile in zip(models, tiles, strict=True):
            _put_targets(tile, columns, model.of_targets)

        # The buffers serve all blocks of all tiles but the last, which may have fewer words:
        # fresh memory for every block would cost more.
        n_columns = tiles[0].shape[1]
        shape = (block_rows, n_columns)
        if not buffers or buffers[0].shape != shape:
            buffers = [tiles[0].new_empty(shape) for _ in range(n_buffers)]

        for block in blocks:
            block_tiles = [tile[block.rows] for tile in tiles]
            block.add(first_word, block_tiles, buffers)
        first_word += n_columns

    return [block.scores(n_words=first_word) for block in blocks]


def _put_targets(logits: Tensor, columns: Tensor, of_targets: Tensor) -> None:
    """Write each row's target logit over the tile's, where the tile has it.

    The two are computed by different products, which round differently. Without this a target could
    rank after itself.
    """
    n_columns = logits.shape[1]
    last = n_columns - 1
    column = columns[:, None]
    is_inside = (column >= 0) & (column <= last)

    # A row whose target is in another tile gets back what it has.
    column = column.clamp(0, last)
    current = logits.gather(1, column)
    target = of_targets[:, None]
    new = torch.where(is_inside, target, current)
    logits.scatter_(1, column, new)


class _Block:
    """Some rows of a pass over the vocabulary, and what was summed of the tiles so far."""

    def __init__(self, rows: slice, of_targets: list[Tensor], top_k: int) -> None:
        n_rows = len(of_targets[0])
        device = of_targets[0].device

        self.rows = rows
        self.of_targets = of_targets
        self.n_above = torch.zeros(n_rows, device=device)
        self.top_words = TopWords(n_rows, top_k, device)
        self.sums = [Sums(n_rows, device) for _ in of_targets]
        self.cross = CrossSums(n_rows, device)

    def add(self, first_word: int, logits: list[Tensor], buffers: list[Tensor]) -> None:
        """Add the block's rows of a tile of every model."""
        p_logits = logits[0]
        n_rows = len(p_logits)
        buffers = [buffer[:n_rows] for buffer in buffers]

        # The maxima of groups serve both the largest logit and the search for the likeliest words.
        maxima = group_maxima(p_logits)
        largest = maxima.amax(1)
        self.top_words.add(first_word, p_logits, maxima)

        of_targets = self.of_targets[0]
        self.n_above += count_above(p_logits, largest, of_targets, buffers[0])

        if len(self.sums) == 1:
            self.sums[0].add(p_logits, largest, buffers)
        else:
            p, q = self.sums
            self.cross.add(p, q, logits, buffers)

    def scores(self, n_words: int) -> Scores:
        """Scores of the rows, after the last tile."""
        p = self.sums[0]
        p_targets = self.of_targets[0]
        entropy = p.entropy(n_words)
        rank = 1 + self.n_above
        scores = Scores(
            entropy=entropy,
            logprob=p.logprob(p_targets),
            rank=rank.masked_fill_(entropy.isnan(), torch.nan),
            varentropy=p.varentropy(),
            top_ids=self.top_words.ids,
            top_logprobs=p.logprobs(self.top_words.logits),
        )
        if len(self.sums) == 1:
            return scores

        q = self.sums[1]
        q_targets = self.of_targets[1]
        kl, reverse_kl = self.cross.divergences(p, q)
        return scores._replace(
            kl=kl,
            reverse_kl=reverse_kl,
            reference_entropy=q.entropy(n_words),
            reference_logprob=q.logprob(q_targets),
        )


def _join(parts: list[Scores]) -> Scores:
    """The rows of all parts, one after the other."""
    columns = {}
    for name in Scores._fields:
        tensors = [getattr(part, name) for part in parts]
        if tensors[0] is not None:
            columns[name] = torch.cat(tensors)
    return Scores(**columns)
