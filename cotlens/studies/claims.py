"""Verdicts on claims that were fixed before any result was seen.

The rules are the library's (rules.py); the claims are the experiment's. A claim names a rule and
what the rule speaks of, so that it can be written down before the runs exist. A file of claims
(trainers/configs/claims.json is one for the paper "Beyond SFT") may hold more that is fixed: the
learning rates that are tried, the rule that picks one, the meaning of the measures. `study.json`
keeps the claims, and path and SHA-256 of the file.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

from cotlens.files import hash_path
from cotlens.studies.rules import RULES, Change, Claim, Comparison, Evidence, Verdict
from cotlens.trace import TraceError

__all__ = [
    "Claim",
    "Evidence",
    "Verdict",
    "check_claims",
    "holm",
    "read_claims",
    "register_claims",
    "verdicts",
]


# --- the file ----------------------------------------------------------------------------------


def read_claims(path: str | Path) -> list[dict[str, Any]]:
    """The claims in a JSON file: a list of objects with the fields of `Claim`; checked.

    The list may be the entry `claims` of an object, whose other entries say what else is fixed.

    Raises:
        TraceError: if the file cannot be read, or a claim has an unknown field or rule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: no list of claims: {error}") from None
    claims = content
    if isinstance(content, dict) and "claims" in content:
        claims = content["claims"]
    check_claims(claims, str(path))
    return claims


def register_claims(path: str | Path) -> dict[str, Any]:
    """What `study.json` keeps of a file of claims, to be joined into the study's `info`.

    Returns:
        `claims`, as of `read_claims`, and `claims_file`: `sha256` of the file and its `path` from
        the current folder, or its name alone where it lies elsewhere.
    """
    claims = read_claims(path)
    path = Path(path).resolve()
    here = Path.cwd().resolve()
    place = path.name
    if path.is_relative_to(here):
        place = path.relative_to(here).as_posix()

    file = {"path": place, "sha256": hash_path(path)}
    return {"claims": claims, "claims_file": file}


def check_claims(claims: Any, where: str) -> list[Claim]:
    """The claims as objects.

    Raises:
        TraceError: if one has an unknown field or rule, or no sentence.
    """
    if not isinstance(claims, list):
        raise TraceError(f"{where}: expected a list of claims, got {type(claims).__name__}")

    known_fields = {field.name for field in fields(Claim)}
    checked = []
    for number, entry in enumerate(claims):
        place = f"{where}: claim {number}"
        is_claim = isinstance(entry, dict) and {"claim", "rule"} <= set(entry)
        if not is_claim:
            raise TraceError(f"{place}: expected an object with `claim` and `rule`, got {entry!r}")
        unknown = sorted(set(entry) - known_fields)
        if unknown:
            there = ", ".join(sorted(known_fields))
            raise TraceError(f"{place}: unknown {', '.join(unknown)}; known are {there}")
        if entry["rule"] not in RULES:
            there = ", ".join(RULES)
            raise TraceError(f"{place}: unknown rule {entry['rule']!r}; there are {there}")
        checked.append(Claim(**entry))
    return checked


def check_registration(info: Mapping[str, Any]) -> Verdict | None:
    """One line that says why the claims may not be those that were fixed; None if they are.

    Also None for a study that names no file of claims.
    """
    file = info.get("claims_file")
    if not file:
        return None

    path = Path(file["path"])
    if not path.is_file():
        found = f"{path} is not in this folder"
        verdict = "not checked"
    elif hash_path(path) != file["sha256"]:
        found = f"{path} has SHA-256 {hash_path(path)[:12]}"
        verdict = "changed"
    elif read_claims(path) != list(info.get("claims", ())):
        found = f"study.json holds other claims than {path}"
        verdict = "changed"
    else:
        return None
    return Verdict(
        "Fixed before the run",
        verdict,
        f"{found}; the study was made with {file['sha256'][:12]}",
        "the file of claims as it was before the run",
    )


# --- verdicts ----------------------------------------------------------------------------------


def verdicts(
    claims: Sequence[Mapping[str, Any]], evidence: Evidence, roles: Mapping[str, Any]
) -> list[Verdict]:
    """What the study says of each claim whose arms it has, sorted by claim.

    The p-values of a claim's SFT arms are adjusted for each other (Holm), and so are those of its
    other arms. The first line warns if the file of claims has changed since the study was made.

    Args:
        claims: of `Study.info["claims"]` or `read_claims`.
        evidence: the study's numbers.
        roles: of `Study.info`: role -> arm or list of arms, and `claims_file`.
    """
    results = []
    sft = _names_of("sft", roles)
    for claim in check_claims(list(claims), "claims"):
        rule = RULES[claim.rule]
        pairs = []
        comparisons = []
        for arm, against in _arms_of(claim, evidence, roles):
            comparison = rule.compare(claim, evidence, arm, against)
            if comparison is not None:
                pairs.append((arm, against))
                comparisons.append(comparison)

        # All arms of the claim are compared before any is decided.
        adjusted = _adjust(comparisons, sft)
        for pair, comparison in zip(pairs, adjusted, strict=True):
            usual = (evidence.base, roles.get("rl"))
            sentence = claim.claim + _unnamed_arms(pair, usual)
            results.append(rule.decide(sentence, comparison))

    results.sort()
    warning = check_registration(roles)
    if warning:
        results.insert(0, warning)
    return results


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false rejection is at most the level.

    The k-th smallest of m, counted from 0, becomes the largest of (m - i) p_i over i <= k, at most
    1 (Holm 1979). NaN stays NaN and counts for nothing.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    known.sort(key=p_values.__getitem__)

    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    n_left = len(known)
    for place in known:
        p = n_left * p_values[place]
        largest = max(largest, p)
        adjusted[place] = min(largest, 1.0)
        n_left -= 1
    return adjusted


def _adjust(comparisons: Sequence[Comparison], sft: Sequence[str]) -> list[Comparison]:
    """The comparisons of one claim with p-values adjusted within each measure and kind of arm.

    A difference that stands in several comparisons counts once.
    """
    families: dict[tuple[str, bool], dict[str, Change]] = {}
    for comparison in comparisons:
        for change in comparison.changes.values():
            has_sft = change.arm in sft or change.against in sft
            family = families.setdefault((change.measure, has_sft), {})
            family[change.name] = change

    # Holm's p-value of each difference, and how many there are.
    adjusted = {}
    for family in families.values():
        p_values = [change.p for change in family.values()]
        for change, p in zip(family.values(), holm(p_values), strict=True):
            adjusted[change.name] = change._replace(p=p, n_tests=len(family))

    results = []
    for comparison in comparisons:
        changes = {}
        for key, change in comparison.changes.items():
            changes[key] = adjusted[change.name]
        results.append(comparison._replace(changes=changes))
    return results


def _names_of(named: str | Sequence[str], roles: Mapping[str, Any]) -> list[str]:
    """The arms of a role or of several; a name that is no role is an arm."""
    if isinstance(named, str):
        arms = roles.get(named) or named
        return [arms] if isinstance(arms, str) else list(arms)

    names = []
    for role in named:
        names += _names_of(role, roles)
    return list(dict.fromkeys(names))


def _arms_of(
    claim: Claim, evidence: Evidence, roles: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The pairs of a claim's arms, of those that the study has."""
    present = set(evidence.samples["arm"].astype(str))
    arms = _names_of(claim.arm, roles)
    named = claim.against or evidence.base
    others = _names_of(named, roles)
    for arm, against in product(arms, others):
        is_present = {arm, against} <= present
        if is_present and arm != against:
            yield arm, against


def _unnamed_arms(pair: Sequence[str], usual: Sequence[str | None]) -> str:
    """The arms that a claim leaves open, in brackets: all but the base and the RL arm."""
    others = [name for name in pair if name not in usual]
    if not others:
        return ""
    return f" [{', '.join(others)}]"
