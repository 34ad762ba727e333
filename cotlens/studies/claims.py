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
    path = Path(path).resolve()
    folder = Path.cwd().resolve()
    place = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    file = {"path": place, "sha256": hash_path(path) if path.is_file() else ""}
    return {"claims": read_claims(path), "claims_file": file}


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
        if not isinstance(entry, dict) or not {"claim", "rule"} <= set(entry):
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
    for claim in check_claims(list(claims), "claims"):
        rule = RULES[claim.rule]
        pairs = []
        comparisons = []
        for arm, against in _arms_of(claim, evidence, roles):
            comparison = rule.compare(claim, evidence, arm, against)
            if comparison is not None:
                pairs.append((arm, against))
                comparisons.append(comparison)

        adjusted = _adjust(comparisons, _names_of("sft", roles))
        for (arm, against), comparison in zip(pairs, adjusted, strict=True):
            others = _unnamed_arms(arm, against, evidence.base, roles)
            results.append(rule.decide(claim.claim + others, comparison))

    warning = check_registration(roles)
    return ([warning] if warning else []) + sorted(results)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted so that the chance of any false rejection is at most the level.

    The k-th smallest of m, counted from 0, becomes the largest of (m - i) p_i over i <= k, at most
    1 (Holm 1979). NaN stays NaN and counts for nothing.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(known, key=p_values.__getitem__)):
        largest = max(largest, (len(known) - rank) * p_values[place])
        adjusted[place] = min(largest, 1.0)
    return adjusted


def _adjust(comparisons: Sequence[Comparison], sft: Sequence[str]) -> list[Comparison]:
    """The comparisons of one claim with p-values adjusted within each measure and kind of arm.

    A difference that stands in several comparisons counts once.
    """
    families: dict[tuple[str, bool], dict[tuple[str, str], Change]] = {}
    for comparison in comparisons:
        for change in comparison.changes.values():
            family = families.setdefault(_family_of(change, sft), {})
            family[change.arm, change.against] = change

    # Holm's p-value of each difference, and how many there are.
    adjusted: dict[tuple[str, str, str], Change] = {}
    for family in families.values():
        p_values = holm([change.p for change in family.values()])
        for change, p in zip(family.values(), p_values, strict=True):
            key = (change.measure, change.arm, change.against)
            adjusted[key] = change._replace(p=p, n_tests=len(family))

    results = []
    for comparison in comparisons:
        changes = {}
        for name, change in comparison.changes.items():
            changes[name] = adjusted[change.measure, change.arm, change.against]
        results.append(comparison._replace(changes=changes))
    return results


def _family_of(change: Change, sft: Sequence[str]) -> tuple[str, bool]:
    """The measure of a difference, and whether an SFT arm is in it."""
    return change.measure, change.arm in sft or change.against in sft


def _names_of(role: str, roles: Mapping[str, Any]) -> list[str]:
    """The arms of a role; the name itself where no role is called so."""
    named = roles.get(role) or role
    return [named] if isinstance(named, str) else list(named)


def _arms_of(
    claim: Claim, evidence: Evidence, roles: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The arms of a claim's two roles, of those that the study has."""
    present = set(evidence.samples["arm"].astype(str))

    def arms(named: str | Sequence[str]) -> list[str]:
        listed = [named] if isinstance(named, str) else named
        names = [name for role in listed for name in _names_of(role, roles)]
        return [name for name in dict.fromkeys(names) if name in present]

    for arm in arms(claim.arm):
        for against in arms(claim.against or evidence.base):
            if arm != against:
                yield arm, against


def _unnamed_arms(arm: str, against: str, base: str, roles: Mapping[str, Any]) -> str:
    """The arms that a claim leaves open, in brackets: all but the base and the RL arm."""
    usual = {base, roles.get("rl")}
    others = [name for name in (arm, against) if name not in usual]
    return f" [{', '.join(others)}]" if others else ""
