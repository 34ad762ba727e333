"""How large can a token's entropy be when only its top-k log-probs are known?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import Floats


class Bounds(NamedTuple):
    """An interval that holds the entropy, in nats, one entry per token."""

    lower: Floats
    upper: Floats


def entropy_bounds(top_logprobs: ArrayLike, n_words: int, *, rounding: float = 0.0) -> Bounds:
    """Bounds of the entropy over the whole vocabulary, from the log-probs of the k likeliest words.

    With H_k = -sum p ln p over the listed words and d = 1 - sum p the mass of the others, none of
    which is likelier than the last listed one, p_k:

        lower = H_k + d ln(1 / min(p_k, d))     the rest in as few words as that allows
        upper = H_k + d ln((V - k) / d)         the rest spread evenly over the other words

    Listed probabilities may be rounded; their sum then leaves more or less than the true rest.
    `rounding` widens the interval by the effect of that to first order: 2^-8 for numbers stored in
    bfloat16. d is at most (V - k) p_k in any case, and a sum slightly above 1 leaves no rest.

    Args:
        top_logprobs: (..., k) natural logarithms, likeliest first; -inf or NaN pads shorter lists.
            A drawn token that a server adds after the k likeliest does not belong here.
        n_words: V, the size of the vocabulary.
        rounding: relative error of a listed probability.

    Raises:
        ValueError: for log-probs above 0, not in falling order, or with a mass that rounding does
            not explain.

    >>> import math
    >>> low, high = entropy_bounds([math.log(0.5), math.log(0.25)], n_words=4)
    >>> f"{low:.4f} {high:.4f}"  # 1/2 ln 2 + 1/4 ln 4 + 1/4 ln 4, and the rest halved: + 1/4 ln 2
    '1.0397 1.2130'
    """
    logp = np.asarray(top_logprobs, float)
    logp = np.where(np.isnan(logp), -np.inf, logp)
    p = np.exp(logp)
    _check_top_k(logp, p, rounding)

    # Padding has no mass; a finite logarithm keeps 0 times infinity out of the sums.
    is_listed = p > 0
    logp = np.where(is_listed, logp, 0.0)
    n_others = n_words - is_listed.sum(-1)

    # Entropy of the listed words, and how far rounding can move it.
    surprise = -p * logp
    change = np.abs(p * (1 + logp))
    listed = surprise.sum(-1)
    slack = rounding * change.sum(-1)

    # No other word is likelier than the last listed one, which rounding may have lowered.
    tolerance = 1 + rounding
    listed_p = np.where(is_listed, p, np.inf)
    last = listed_p.min(-1, initial=np.inf)
    likeliest_other = last * tolerance
    largest_rest = n_others * last * tolerance
    largest_rest = np.minimum(largest_rest, 1)

    # The rest is known no better than the mass: rounding may have hidden it, or made it up.
    mass = p.sum(-1)
    uncertainty = rounding * mass
    least_rest = 1 - mass - uncertainty
    most_rest = 1 - mass + uncertainty
    least_rest = np.clip(least_rest, 0, largest_rest)
    most_rest = np.clip(most_rest, 0, largest_rest)

    # Lower: the rest in as few words as possible.
    concentrated = np.minimum(likeliest_other, least_rest)
    least_surprise = _surprise(least_rest, concentrated)
    lower = listed - slack + least_surprise

    # Upper: the rest spread evenly.
    even = most_rest / np.maximum(n_others, 1)
    most_surprise = _surprise(most_rest, even)
    upper = listed + slack + most_surprise

    largest = np.log(n_words)
    return Bounds(
        lower=np.clip(lower, 0, largest),
        upper=np.clip(upper, 0, largest),
    )


def _check_top_k(logp: Floats, p: Floats, rounding: float) -> None:
    """Raise ValueError if the log-probs are not those of the likeliest words of a distribution."""
    mass = p.sum(-1)
    allowed = 0.01 + rounding
    if logp.size and (logp.max() > allowed or mass.max() > 1 + allowed):
        raise ValueError(
            f"log-probs of up to {logp.max():.3g} with a mass of up to {mass.max():.4g} "
            "are no distribution; expected natural logarithms of probabilities"
        )

    rises = np.diff(p) > 1e-6 + rounding
    if rises.any():
        raise ValueError("the log-probs must be those of the likeliest words, likeliest first")


def _surprise(mass: Floats, each: Floats) -> Floats:
    """Surprise of a mass spread over words of probability `each`; 0 where there is no mass."""
    has_mass = mass > 0
    positive = np.where(has_mass, each, 1.0)
    log_each = np.log(positive)
    surprise = -mass * log_each
    return np.where(has_mass, surprise, 0.0)
