"""How often the 95% intervals of cotlens.stats hold the truth, in 2,000 seeded simulations a row.

`python benchmarks/coverage.py` prints the tables of docs/statistics.md. Each simulation draws
prompts with m samples each; ICC is the share of the variance that lies between prompts.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cotlens import stats

SIMULATIONS = 2000
Values = NDArray[np.float64]


def draw(rng: np.random.Generator, shared: Values, m: int, icc: float, skewed: bool) -> Values:
    """Values of m samples for each prompt: mean 0, variance 1, noise normal or log-normal."""
    size = (len(shared), m)
    lognormal = (rng.lognormal(0, 1, size) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    noise = lognormal if skewed else rng.normal(size=size)
    return np.sqrt(icc) * shared[:, None] + np.sqrt(1 - icc) * noise


def coverage(
    interval: Callable[[np.random.Generator, int], tuple[float, float]], truth: float = 0.0
) -> float:
    """Share of simulations whose interval holds the truth."""
    hits = 0
    for seed in range(SIMULATIONS):
        low, high = interval(np.random.default_rng(seed), seed)
        hits += low <= truth <= high
    return hits / SIMULATIONS


def of_mean(n: int, m: int, icc: float, skewed: bool) -> float:
    """Coverage of the mean's interval."""

    def interval(rng: np.random.Generator, seed: int) -> tuple[float, float]:
        values = draw(rng, rng.normal(size=n), m, icc, skewed)
        return stats.mean(values.ravel(), np.repeat(np.arange(n), m), seed=seed)[1:3]

    return coverage(interval)


def of_paired_difference(n: int, m: int, icc: float, skewed: bool) -> float:
    """Coverage of the difference's interval where both groups have the same prompts."""

    def interval(rng: np.random.Generator, seed: int) -> tuple[float, float]:
        shared, prompts = rng.normal(size=n), np.repeat(np.arange(n), m)
        a, b = (draw(rng, shared, m, icc, skewed).ravel() for _ in range(2))
        return stats.difference(a, b, prompts, prompts, seed=seed)[1:3]

    return coverage(interval)


def of_proportion(n: int, m: int, p: float, icc: float) -> float:
    """Coverage of the proportion's interval.

    Each prompt has its own probability (beta) where icc > 0.
    """

    def interval(rng: np.random.Generator, _: int) -> tuple[float, float]:
        spread = (1 - icc) / icc if icc else 0.0
        own = rng.beta(p * spread, (1 - p) * spread, size=n) if icc else np.full(n, p)
        flags = rng.random((n, m)) < own[:, None]
        return stats.proportion(flags.ravel(), np.repeat(np.arange(n), m))[1:3]

    return coverage(interval, p)


def of_two_stages(n: int, m: int, icc: float) -> float:
    """Coverage if the samples within a drawn prompt were drawn again too.

    The interval is the plain percentile interval of the mean.
    """

    def interval(rng: np.random.Generator, _: int) -> tuple[float, float]:
        values = draw(rng, rng.normal(size=n), m, icc, False)
        prompts = rng.integers(n, size=(1000, n))
        samples = rng.integers(m, size=(1000, n, m))
        means = values[prompts[:, :, None], samples].mean(axis=(1, 2))
        low, high = np.quantile(means, [0.025, 0.975])
        return float(low), float(high)

    return coverage(interval)


if __name__ == "__main__":
    print(
        "| prompts | samples | ICC | mean | mean, skewed | paired difference | paired, skewed |\n"
        + "|---" * 7
        + "|"
    )
    for n in (10, 20, 40, 80):
        for m, icc in ((1, 0.0), (4, 0.0), (4, 0.5)):
            found = [
                f(n, m, icc, skewed)
                for f in (of_mean, of_paired_difference)
                for skewed in (False, True)
            ]
            print(
                f"| {n} | {m} | {icc} | " + " | ".join(f"{share:.1%}" for share in found) + " |",
                flush=True,
            )
    print("\n| prompts | samples | ICC | p = 0.5 | p = 0.1 | p = 0.02 |\n|---|---|---|---|---|---|")
    for n in (20, 40, 100):
        for m, icc in ((1, 0.0), (4, 0.0), (4, 0.3)):
            found = [of_proportion(n, m, p, icc) for p in (0.5, 0.1, 0.02)]
            print(
                f"| {n} | {m} | {icc} | " + " | ".join(f"{share:.1%}" for share in found) + " |",
                flush=True,
            )
    print("\n| prompts | samples | ICC | mean, samples drawn again as well |\n|---|---|---|---|")
    for m, icc in ((4, 0.0), (4, 0.5)):
        print(f"| 40 | {m} | {icc} | {of_two_stages(40, m, icc):.1%} |", flush=True)
