"""Rewards for TRL's GRPO: `f(prompts, completions, **columns)` -> one number, or None, per completion.

Thin over `cotlens.text.split` (where the thought ends), `cotlens.judges.guard` (is it unsafe) and `cotlens.judges.grade` (is it right).

None means that a reward does not apply to a row, and TRL leaves it out: a guard says nothing of arithmetic. Rows go to
rewards by their column `domain`. What cannot be judged is never rewarded: a guard that is undecided, and an answer that
never came because the thought was cut off, get 0. An answer counts only outside the thought.
"""

import inspect
import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from accelerate import PartialState

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.grade import Grade, grade
from cotlens.judges.guard import Guard, judge
from cotlens.judges.local import load_guard
from cotlens.judges.verdict import Item, Part, Verdict
from cotlens.text.split import Split, Status, split_think
from cotlens.trace import TraceError
from trainers.render import opens_thought, request_of

Reward = Callable[..., list[float | None]]
UNSAFE = ("harmful", "jailbreak", "forbidden")  # domains where a request should be refused
BENIGN = ("benign", "borderline", "allowed")  # domains where it should not


class RewardError(RuntimeError):
    """A reward could not be given. Training stops with a checkpoint (callbacks.train_or_stop) and can be resumed."""


class Sample(NamedTuple):
    """One completion, taken apart.

    Attributes:
        prompt: as the model read it; empty where the trainer only has messages.
        request: what the user asked.
        text: the completion.
        thinking: all thoughts, joined by a blank line; blank where there is none.
        answer: empty where the thought was cut off.
        status: closed, open or absent.
    """

    prompt: str
    request: str
    text: str
    thinking: str
    answer: str
    status: Status


def take_apart(prompt: str | list, completion: str | list, request: str | None = None) -> Sample:
    """A prompt and a completion, each a string or a list of messages (TRL 1.16), as parts.

    Args:
        prompt: rendered, or messages.
        completion: what the model wrote.
        request: what the user asked, where the row says so: a guard should not read template and system prompt.
    """
    rendered = prompt if isinstance(prompt, str) else ""
    request = request or request_of(prompt)
    message = {"content": completion} if isinstance(completion, str) else completion[-1]
    text = str(message.get("content") or "")
    thinking = next(
        (
            message[key]
            for key in ("reasoning_content", "reasoning", "thinking")
            if message.get(key)
        ),
        None,
    )
    if isinstance(thinking, str):  # the trainer has parsed the thought out of the content
        status = Status.CLOSED if text.strip() else Status.OPEN
        return Sample(rendered, request, f"<think>{thinking}</think>{text}", thinking, text, status)
    split = split_think(text, rendered)
    thinking = "\n\n".join(span.of(text) for span in split.think)
    return Sample(rendered, request, text, thinking, _outside(text, split), split.status)


def _outside(text: str, split: Split) -> str:
    """All that is no thinking, where the thought is closed: text before or between thoughts must not escape a judge."""
    if split.status is not Status.CLOSED or "</think>" not in text:
        return split.answer.of(text)
    edges = [0, *(edge for span in split.think for edge in span), len(text)]
    gaps = [text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    return "\n\n".join(kept for gap in gaps if (kept := re.sub(r"</?think>", "", gap).strip()))


def _samples(
    prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
) -> list[Sample]:
    requests = columns.get("request") or [None] * len(prompts)
    return [take_apart(*three) for three in zip(prompts, completions, requests, strict=True)]


def _applies(columns: Mapping[str, Any], domains: Collection[str], n: int) -> list[bool]:
    """Which rows are of these domains; no domains: all rows."""
    if not domains:
        return [True] * n
    if "domain" not in columns:
        raise RewardError(
            f"the rows have no column `domain`; a reward asks for {', '.join(domains)}. Or set domains: []"
        )
    return [domain in domains for domain in columns["domain"]]


# --- safety ----------------------------------------------------------------------------------------------------
def guard_reward(
    guard: Guard,
    *,
    part: str = "full",
    scale: str = "probability",
    domains: Collection[str] = UNSAFE,
    attempts: int = 5,
    wait: float = 1.0,
) -> Reward:
    """1 - p_unsafe of a part of the completion, by a guard.

    Args:
        guard: the judge; it reads the row's `request` (or the prompt) and the part.
        part: `thinking`, `answer`, `full`, or `min` for the less safe of thinking and answer. Full includes
            the delimiters. A part that is not there is undecided, but `min` passes over a missing thought: the
            format reward asks for one.
        scale: `probability` (a verdict without one counts by its label: safe 1, controversial 1/2), or `hard`: 1 for
            safe, else 0. Undecided is 0 on both scales.
        domains: where it applies; none: everywhere.
        attempts: how often a guard that does not answer is asked, waiting `wait`, 2 `wait`, 4 `wait` ... seconds.
        wait: see `attempts`.

    Raises:
        RewardError: if the guard does not answer; training stops with a checkpoint.
    """
    parts = {
        "min": (Part.THINKING, Part.ANSWER),
        **{p.value: (p,) for p in (Part.THINKING, Part.ANSWER, Part.FULL)},
    }
    if part not in parts or scale not in ("probability", "hard"):
        raise ValueError(
            f"guard reward: expected part in {', '.join(parts)} and scale probability or hard, got {part}, {scale}"
        )

    def safety(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        applies = _applies(columns, domains, len(prompts))
        samples = [
            s if a else None
            for s, a in zip(_samples(prompts, completions, columns), applies, strict=True)
        ]
        wanted = [
            (sample, p) for sample in samples if sample for p in _present(sample, parts[part])
        ]
        items = [Item(sample.request, _text(sample, p), p) for sample, p in wanted]
        verdicts = iter(_ask(guard, items, attempts, wait))
        scores = [
            [_safety(next(verdicts), scale) for _ in _present(s, parts[part])] if s else None
            for s in samples
        ]
        return [None if found is None else min(found) for found in scores]

    safety.__name__ = f"safety_{part}"
    return safety


def _present(sample: Sample, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    return parts[1:] if len(parts) > 1 and not sample.thinking.strip() else parts


def _text(sample: Sample, part: Part) -> str:
    return {Part.THINKING: sample.thinking, Part.ANSWER: sample.answer, Part.FULL: sample.text}[
        part
    ]


def _safety(verdict: Verdict, scale: str) -> float:
    if verdict.label == "undecided":
        return 0.0
    if scale == "hard":
        return float(verdict.label == "safe")
    if math.isnan(verdict.p_unsafe):
        return {"safe": 1.0, "controversial": 0.5}.get(verdict.label, 0.0)
    return 1.0 - verdict.p_unsafe


def _ask(guard: Guard, items: Sequence[Item], attempts: int, wait: float) -> list[Verdict]:
    """The verdicts on all items; a guard that is down is asked again, ever longer apart. Blank texts are not sent."""
    for attempt in range(1, attempts + 1):
        try:
            texts = [item for item in items if item.text.strip()]
            verdicts = iter(judge(guard, texts))
            return [next(verdicts) if item.text.strip() else Verdict("undecided") for item in items]
        except (TraceError, OSError) as error:  # what an endpoint raises when it does not answer
            if attempt == attempts:
                raise RewardError(
                    f"{guard.name} did not answer in {attempts} attempts: {error}"
                ) from error
            time.sleep(wait * 2 ** (attempt - 1))
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def over_refusal_reward(
    guard: Guard | None = None,
    *,
    domains: Collection[str] = BENIGN,
    attempts: int = 5,
    wait: float = 1.0,
) -> Reward:
    """1 where a benign request is answered, 1/2 where the answer refuses and then gives something, 0 where it refuses.

    The rubric is RECAP's (arXiv 2510.00938). No answer is 0.

    Args:
        guard: a judge of refusals, such as WildGuard; it says yes or no, and where it says neither the row gets 0.
            None: the rules of `cotlens.classify_refusal`.
        domains: where it applies; none: everywhere.
        attempts: as in `guard_reward`.
        wait: as in `guard_reward`.
    """
    worth = {Refusal.COMPLIANCE: 1.0, Refusal.PARTIAL: 0.5, Refusal.FULL: 0.0, Refusal.UNKNOWN: 0.0}

    def compliance(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        applies = _applies(columns, domains, len(prompts))
        samples = _samples(prompts, completions, columns)
        if guard is None:
            return [
                worth[classify_refusal(s.answer)] if a else None
                for s, a in zip(samples, applies, strict=True)
            ]
        items = [
            Item(s.request, s.answer, Part.ANSWER)
            for s, a in zip(samples, applies, strict=True)
            if a
        ]
        verdicts = iter(_ask(guard, items, attempts, wait))
        return [float(next(verdicts).refusal is False) if a else None for a in applies]

    return compliance


# --- skill and form --------------------------------------------------------------------------------------------
def correctness_reward(*, column: str = "answer", seconds: float = 5.0) -> Reward:
    """1 where the answer equals the row's reference as mathematics, else 0; None where the row has no reference.

    Args:
        column: holds the reference.
        seconds: limit of one comparison; an answer that takes longer gets 0.
    """

    def correctness(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        golds = columns.get(column) or [None] * len(prompts)
        samples = _samples(prompts, completions, columns)
        return [
            _correct(s.answer, g, seconds) if _is_gold(g) else None
            for s, g in zip(samples, golds, strict=True)
        ]

    return correctness


def _is_gold(gold: Any) -> bool:
    return gold is not None and str(gold).strip() not in ("", "nan")


def _correct(answer: str, gold: Any, seconds: float) -> float:
    try:
        return float(grade(answer, str(gold), seconds=seconds) is Grade.CORRECT)
    except ValueError as error:
        raise RewardError(f"correctness: {error}") from None


def format_reward(*, domains: Collection[str] = ()) -> Reward:
    """1 for exactly one closed thought, else 0 (ThinkSafe's rule, arXiv 2601.23143, and stricter).

    One `<think>` and one `</think>`, in this order, nothing before the first, and neither thought nor answer blank
    (ours: an empty thought would earn safety and form for nothing). Where the prompt opened the thought (R1's
    distills), one `</think>` and no `<think>`. Tags that are only talked about count too.
    """

    def format(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        applies = _applies(columns, domains, len(prompts))
        samples = _samples(prompts, completions, columns)
        return [
            _has_form(sample) if a else None for sample, a in zip(samples, applies, strict=True)
        ]

    return format


def _has_form(sample: Sample) -> float:
    opens, closes = sample.text.count("<think>"), sample.text.count("</think>")
    if not (sample.thinking.strip() and sample.answer.strip()):
        return 0.0
    if opens_thought(sample.prompt):
        return float((opens, closes) == (0, 1))
    return float((opens, closes) == (1, 1) and sample.text.lstrip().startswith("<think>"))


# --- from a configuration --------------------------------------------------------------------------------------
def make_rewards(
    config: Sequence[Mapping[str, Any]], guard: Guard | None = None
) -> tuple[list[Reward], list[float]]:
    """Reward functions and their weights from a recipe.

        rewards:
          - {name: safety, weight: 1.0, part: full, guard: {model: meta-llama/Llama-Guard-3-8B}}
          - {name: correctness, weight: 1.0}

    Args:
        config: one entry per reward: `name`, `weight` (1), and options of the function of that name.
        guard: a judge that is there already; else each safety reward names its own: `model` (and `family`, `device`,
            `dtype`) for `load_guard`, or `url` and `model` for a judge behind an endpoint.

    Raises:
        ValueError: for an unknown name or option.
    """
    check_rewards(config)
    functions, weights = [], []
    for entry in config:
        options = {
            key: value for key, value in entry.items() if key not in ("name", "weight", "guard")
        }
        if entry["name"] == "safety" or "guard" in entry:
            options["guard"] = guard or _load(entry.get("guard"))
        functions.append(_MAKERS[entry["name"]](**options))
        weights.append(float(entry.get("weight", 1.0)))
    return functions, weights


_MAKERS: Mapping[str, Callable[..., Reward]] = {
    "safety": guard_reward,
    "correctness": correctness_reward,
    "format": format_reward,
    "over_refusal": over_refusal_reward,
}


def check_rewards(config: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for a name or an option that is unknown, before any weights are loaded."""
    if not config:
        raise ValueError("no rewards: the recipe needs a list `rewards` with at least one entry")
    for entry in config:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name not in _MAKERS:
            raise ValueError(
                f"rewards: expected entries with a name of {', '.join(_MAKERS)}, got {entry!r}"
            )
        known = {"name", "weight", "guard", *inspect.signature(_MAKERS[name]).parameters}
        if unknown := [key for key in entry if key not in known]:
            raise ValueError(
                f"reward {name}: unknown {', '.join(unknown)}; it takes {', '.join(sorted(known))}"
            )


def _load(settings: Mapping[str, Any] | None) -> Guard:
    if not settings or "model" not in settings:
        raise ValueError(
            "reward safety: name its judge, e.g. guard: {model: meta-llama/Llama-Guard-3-8B}"
        )
    options = {key: value for key, value in settings.items() if key not in ("url", "model")}
    if "url" in settings:
        return EndpointGuard(settings["url"], settings["model"], **options)
    options.setdefault(
        "device", str(PartialState().device)
    )  # each process has its own guard beside its own model
    return load_guard(settings["model"], **options)
