"""The interval that holds a token's entropy when only its top-k log-probs are known."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cotlens.measures.entropy import Floats


# --- from an API's top-k ---------------------------------------------------------------------------------------
class Bounds(NamedTuple):
    """An interval that holds the entropy, in nats, one entry per token."""

    lower: Floats
    upper: Floats


def entropy_bounds(top_logprobs: ArrayLike, n_words: int, *, rounding: float = 0.0) -> Bounds:
    """Between which values the entropy over the whole vocabulary lies, given the log-probs of the k likeliest words.

    With H_k = -sum p ln p over the listed words and d = 1 - sum p the mass of the others, none of which is likelier
    than the last listed one, p_k:

        lower = H_k + d ln(1 / min(p_k, d))     the rest in as few words as that allows
        upper = H_k + d ln((V - k) / d)         the rest spread evenly over the other words

    Listed probabilities may be rounded, then their sum leaves more or less than the rest really has. `rounding` widens
    the interval by what that can do to first order: 2^-8 for numbers stored in bfloat16. d is at most (V - k) p_k in
    any case, and a sum slightly above 1 leaves no rest.

    Args:
        top_logprobs: (..., k) natural logarithms, likeliest first; -inf or NaN pads shorter lists. A drawn token that
            a server adds behind the k likeliest does not belong here.
        n_words: V, the size of the vocabulary.
        rounding: relative error of a listed probability.

    Raises:
        ValueError: for log-probs above 0, not in falling order, or with a mass that rounding does not explain.

    >>> import math
    >>> low, high = entropy_bounds([math.log(0.5), math.log(0.25)], n_words=4)
    >>> f"{low:.4f} {high:.4f}"  # 1/2 ln 2 + 1/4 ln 4 + 1/4 ln 4, and with the last quarter halved + 1/4 ln 2
    '1.0397 1.2130'
    """
    logp = np.asarray(top_logprobs, float)
    logp = np.where(np.isnan(logp), -np.inf, logp)
    p = np.exp(logp)
    mass, allowed = p.sum(-1), 0.01 + rounding
    if logp.size and (logp.max() > allowed or (mass > 1 + allowed).any()):
        raise ValueError(
            f"log-probs of up to {logp.max():.3g} with a mass of up to {mass.max():.4g} are no distribution"
        )
    if (np.diff(p) > 1e-6 + rounding).any():
        raise ValueError("the log-probs must be those of the likeliest words, likeliest first")
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = np.where(p > 0, -p * logp, 0.0)
        listed, k = surprise.sum(-1), (p > 0).sum(-1)
        least = np.where(p > 0, p, np.inf).min(-1, initial=np.inf)
        slack = rounding * np.abs(np.where(p > 0, p * (1 + logp), 0.0)).sum(-1)
        # The rest is known no better than the mass: rounding may have hidden it, or made it up.
        most = np.minimum((n_words - k) * least * (1 + rounding), 1)
        least_rest, most_rest = (
            np.clip(1 - mass - rounding * mass, 0, most),
            np.clip(1 - mass + rounding * mass, 0, most),
        )
        lower = listed - slack + _plogp(least_rest, np.minimum(least * (1 + rounding), least_rest))
        upper = listed + slack + _plogp(most_rest, most_rest / np.maximum(n_words - k, 1))
    return Bounds(np.clip(lower, 0, np.log(n_words)), np.clip(upper, 0, np.log(n_words)))


def _plogp(mass: Floats, each: Floats) -> Floats:
    """Surprise of a mass whose words have the probability `each`; none where there is no mass."""
    return np.where(mass > 0, -mass * np.log(np.where(mass > 0, each, 1.0)), 0.0)
