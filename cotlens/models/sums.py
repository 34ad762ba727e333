"""Running sums over tiles of logits: what `scores` reads entropy, log-prob, rank and KL from.

Each row keeps sums over y = z - m, where z are its logits and m is the largest so far. With
s = sum e^y, u = sum y e^y and w = sum y^2 e^y,

    entropy     = ln s - u/s                        varentropy = w/s - (u/s)^2
    log-prob(t) = z_t - m - ln s

When m rises by d, the sums move on exactly: s, u and w become e^-d (s, u - d s, w - 2 d u + d^2 s).

R is the number of rows and C the number of words of a tile; the logits of a tile are (R, C).
"""

import math

import torch
from torch import Tensor
from torch.linalg import vecdot

# Below every logit that is not masked, but finite, so that differences to it are finite too.
_FLOOR = -1e30

# Masked words count as this far below the largest: e^-10000 is 0, and y e^y stays finite.
_DEEPEST = -1e4

# The search for the likeliest words looks at the maxima of this many words.
_GROUP_WORDS = 64


class Sums:
    """Running sums of the rows of one model.

    Attributes:
        largest: (R,) the largest logit so far.
        moments: (3, R) s, u and w, relative to it.
    """

    def __init__(self, n_rows: int, device: torch.device) -> None:
        self.largest = torch.full((n_rows,), _FLOOR, device=device)
        self.moments = torch.zeros(3, n_rows, device=device)

    def add(self, logits: Tensor, largest: Tensor, buffers: list[Tensor]) -> None:
        """Add a tile whose largest logits are `largest` (R,)."""
        self.raise_to(largest)

        y, exp_y = buffers
        self.shift(logits, y, exp_y)
        self.add_moments(y, exp_y)

    def raise_to(self, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Make the sums relative to a new largest logit. Returns -d (at most 0) and e^-d."""
        new_largest = torch.maximum(self.largest, largest)
        full_shift = self.largest - new_largest
        self.largest = new_largest

        # From the floor of -1e30 the square would overflow; e^-120 is 0 already.
        shift = full_shift.clamp(min=-120)
        decay = shift.exp()

        # w needs the old u and s, and u the old s.
        s, u, w = self.moments
        w += 2 * shift * u
        w += shift.square() * s
        u += shift * s
        self.moments *= decay
        return full_shift, decay

    def shift(self, logits: Tensor, y: Tensor, exp_y: Tensor) -> None:
        """Write y = z - m into one buffer and e^y into the other."""
        largest = self.largest[:, None]
        torch.sub(logits, largest, out=y)
        y.clamp_(min=_DEEPEST)
        torch.exp(y, out=exp_y)

    def add_moments(self, y: Tensor, exp_y: Tensor) -> None:
        """Add the sums of e^y, y e^y and y^2 e^y; `exp_y` is overwritten."""
        s, u, w = self.moments
        s += exp_y.sum(1)

        exp_y *= y
        u += exp_y.sum(1)
        w += vecdot(exp_y, y)

    def entropy(self, n_words: int) -> Tensor:
        """(R,) entropy, NaN where nothing was summed."""
        s, u, _ = self.moments
        entropy = s.log()
        entropy -= u / s

        # Rounding may leave the interval in which every entropy lies.
        most = math.log(n_words)
        entropy.clamp_(0, most)
        is_known = s > 0
        return torch.where(is_known, entropy, torch.nan)

    def varentropy(self) -> Tensor:
        """(R,) variance of -ln p, NaN where nothing was summed."""
        s, u, w = self.moments
        mean = u / s
        variance = w / s
        variance -= mean.square()
        variance.clamp_(min=0)
        is_known = s > 0
        return torch.where(is_known, variance, torch.nan)

    def logprob(self, logits: Tensor) -> Tensor:
        """(R,) log-probs of one logit a row: -inf if masked, NaN where nothing was summed."""
        column = self.logprobs(logits[:, None])
        return column[:, 0]

    def logprobs(self, logits: Tensor) -> Tensor:
        """(R, k) log-probs of k logits a row."""
        s = self.moments[0][:, None]
        largest = self.largest[:, None]
        logprob = logits - largest
        logprob -= s.log()
        logprob.clamp_(max=0)
        is_known = s > 0
        return torch.where(is_known, logprob, torch.nan)


class CrossSums:
    """What KL needs of a model p and its reference q, besides the sums of each.

    With y and x the logits of p and q, each less its largest so far,

        KL(p || q) = (sum e^y (y - x)) / s_p - ln s_p + ln s_q

    and likewise with p and q exchanged.

    Attributes:
        sums: (2, R) sum e^y (y - x), and sum e^x (x - y).
        only_p_masks: (R,) whether p masks a word that q does not.
        only_q_masks: (R,) whether q masks a word that p does not.
    """

    def __init__(self, n_rows: int, device: torch.device) -> None:
        self.sums = torch.zeros(2, n_rows, device=device)
        no_row = torch.zeros(n_rows, dtype=torch.bool, device=device)
        self.only_p_masks = no_row
        self.only_q_masks = no_row.clone()

    def add(self, p: Sums, q: Sums, logits: list[Tensor], buffers: list[Tensor]) -> None:
        """Add a tile of both models to the sums of each and to the cross sums."""
        p_logits, q_logits = logits
        y, exp_y, x, exp_x = buffers
        under_p, under_q = self.sums

        # As the largest logits rise, the cross sums move on with the sums.
        p_mass = p.moments[0].clone()
        q_mass = q.moments[0].clone()
        p_largest = p_logits.amax(1)
        q_largest = q_logits.amax(1)
        p_shift, p_decay = p.raise_to(p_largest)
        q_shift, q_decay = q.raise_to(q_largest)
        shift = p_shift - q_shift
        under_p += shift * p_mass
        under_p *= p_decay
        under_q -= shift * q_mass
        under_q *= q_decay

        # Add the tile.
        p.shift(p_logits, y, exp_y)
        q.shift(q_logits, x, exp_x)
        difference = y - x
        under_p += vecdot(exp_y, difference)
        under_q -= vecdot(exp_x, difference)
        p.add_moments(y, exp_y)
        q.add_moments(x, exp_x)

        # Note the rows in which only one of the two masks a word.
        p_masks = p_logits.isneginf()
        q_masks = q_logits.isneginf()
        only_p = p_masks & ~q_masks
        only_q = q_masks & ~p_masks
        self.only_p_masks |= only_p.any(1)
        self.only_q_masks |= only_q.any(1)

    def divergences(self, p: Sums, q: Sums) -> tuple[Tensor, Tensor]:
        """(R,) KL(p || q) and (R,) KL(q || p)."""
        p_mass = p.moments[0]
        q_mass = q.moments[0]
        log_ratio = p_mass.log()
        log_ratio -= q_mass.log()

        under_p, under_q = self.sums
        kl = under_p / p_mass
        kl -= log_ratio
        kl.clamp_(min=0)
        reverse_kl = under_q / q_mass
        reverse_kl += log_ratio
        reverse_kl.clamp_(min=0)

        # KL(p || q) is infinite where q masks a word that p does not.
        kl.masked_fill_(self.only_q_masks, torch.inf)
        reverse_kl.masked_fill_(self.only_p_masks, torch.inf)
        return kl, reverse_kl


class TopWords:
    """The k largest logits of every row so far, and their words.

    Attributes:
        logits: (R, k) largest first; -inf where fewer than k words are not masked.
        ids: (R, k) their words; -1 likewise.
    """

    def __init__(self, n_rows: int, k: int, device: torch.device) -> None:
        shape = (n_rows, k)
        self.logits = torch.full(shape, -torch.inf, device=device)
        self.ids = torch.full(shape, -1, device=device)

    def add(self, first_word: int, logits: Tensor, maxima: Tensor) -> None:
        """Merge the words of a tile that exceed the k-th so far; `maxima` are `group_maxima`."""
        k = self.logits.shape[1]
        if k == 0:
            return
        n_rows, n_columns = logits.shape
        threshold = self.logits[:, -1:]
        has_hit = maxima > threshold
        row, group = has_hit.nonzero(as_tuple=True)

        # In the first tiles nearly every group holds such a word: take the largest of all.
        if len(row) > 8 * n_rows:
            n_new = min(k, n_columns)
            all_rows = slice(None)
            new_logits, columns = logits.topk(n_new)
            self._merge(all_rows, new_logits, first_word + columns)
            return

        # Later they are rare: look only into the groups whose maximum exceeds the k-th.
        width = n_columns // maxima.shape[1]
        groups = logits.unflatten(1, (-1, width))
        candidates = groups[row, group]
        is_hit = candidates > threshold[row]
        hit, lane = is_hit.nonzero(as_tuple=True)
        if len(hit) == 0:
            return
        hit_rows = row[hit]
        hit_groups = group[hit]
        hit_columns = hit_groups * width + lane

        # Put the hits of every row that has any on one line, and fill up with masked words.
        changed_rows, line, n_hits = torch.unique_consecutive(
            hit_rows,
            return_inverse=True,
            return_counts=True,
        )
        device = logits.device
        first_hit = n_hits.cumsum(0) - n_hits
        place = torch.arange(len(hit), device=device)
        place -= first_hit[line]

        shape = (len(changed_rows), int(n_hits.max()))
        new_logits = torch.full(shape, -torch.inf, device=device)
        new_logits[line, place] = candidates[hit, lane]
        new_words = torch.full(shape, -1, device=device)
        new_words[line, place] = first_word + hit_columns
        self._merge(changed_rows, new_logits, new_words)

    def _merge(self, rows: slice | Tensor, new_logits: Tensor, new_words: Tensor) -> None:
        """Keep the k largest of what `rows` have and what is new."""
        old_logits = self.logits[rows]
        old_words = self.ids[rows]
        logits = torch.cat([old_logits, new_logits], 1)
        words = torch.cat([old_words, new_words], 1)

        k = old_logits.shape[1]
        largest, order = logits.topk(k)
        largest_words = words.gather(1, order)
        is_masked = largest.isneginf()
        largest_words.masked_fill_(is_masked, -1)

        self.logits[rows] = largest
        self.ids[rows] = largest_words


def group_maxima(logits: Tensor) -> Tensor:
    """(R, G) the largest of every 64 words, or of all words if 64 does not divide their number."""
    n_columns = logits.shape[1]
    width = n_columns
    if n_columns % _GROUP_WORDS == 0:
        width = _GROUP_WORDS
    groups = logits.unflatten(1, (-1, width))
    return groups.amax(2)


def count_above(logits: Tensor, largest: Tensor, target_logits: Tensor, buffer: Tensor) -> Tensor:
    """(R,) number of words in a tile whose logit exceeds the target's."""
    # Most targets are the likeliest word, and most tiles hold no word above the target: look at the
    # rows that have one. A GPU would wait for the list of them, so it looks at all.
    if not logits.is_cuda:
        n_above = torch.zeros_like(largest)
        has_any = largest > target_logits
        rows = has_any.nonzero()[:, 0]
        if len(rows) == 0:
            return n_above
        if len(rows) < len(logits):
            row_logits = logits[rows]
            row_targets = target_logits[rows, None]
            is_above = row_logits > row_targets
            counts = is_above.sum(1)
            n_above[rows] += counts
            return n_above

    targets = target_logits[:, None]
    is_above = torch.gt(logits, targets, out=buffer)
    return is_above.sum(1)
