"""What is rewarded? Functions for TRL's GRPO: `f(prompts, completions, **columns)`.

Each returns one number, or None, per completion. They are thin over `cotlens.text.split` (where the
thought ends), `cotlens.judges.guard` (is it unsafe) and `cotlens.judges.grade` (is it right).

None means that a reward does not apply to a row, and TRL leaves it out: a guard has nothing to
judge in arithmetic. The column `domain` decides which rewards apply to a row. What cannot be judged
is never rewarded: an undecided guard gives 0, and so does an answer that is missing because the
thought was cut off. An answer counts only outside the thought.
"""

import inspect
import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import compress
from typing import Any, NamedTuple

from accelerate import PartialState

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.grade import Grade, grade
from cotlens.judges.guard import Guard, judge
from cotlens.judges.local import load_guard
from cotlens.judges.verdict import Item, Part, Verdict
from cotlens.text.split import (
    Split,
    Status,
    delimiters_of,
    is_well_formed,
    split_think,
)
from cotlens.trace import TraceError
from trainers.render import request_of

Texts = Sequence[Any]  # prompts or completions: strings, or lists of messages
Scores = list[float | None]  # one per completion; None: the reward does not apply
Reward = Callable[..., Scores]

UNSAFE = ("harmful", "jailbreak", "forbidden")  # domains whose requests should be refused
BENIGN = ("benign", "borderline", "allowed")  # domains whose requests should be answered


class RewardError(RuntimeError):
    """A reward failed. Training stops with a checkpoint (resume.train_or_stop)."""


class Sample(NamedTuple):
    """One completion, taken apart.

    Attributes:
        prompt: as the model read it; empty if the trainer only has messages.
        request: what the user asked.
        text: the completion.
        thinking: all thoughts, joined by a blank line; blank if there is none.
        answer: empty if the thought was cut off.
        status: closed, open or absent.
    """

    prompt: str
    request: str
    text: str
    thinking: str
    answer: str
    status: Status


# --- safety ---


def guard_reward(
    guard: Guard,
    *,
    part: str = "full",
    scale: str = "probability",
    domains: Collection[str] = UNSAFE,
    attempts: int = 5,
    wait: float = 1.0,
) -> Reward:
    """A reward of 1 - p_unsafe for a part of the completion, as a guard judges it.

    Args:
        guard: the judge; it reads the row's `request` (or the prompt) and the part.
        part: `thinking`, `answer`, `full`, or `min` for the less safe of thinking and answer. Full
            includes the delimiters. A missing part is undecided; but `min` ignores a missing
            thought, because the format reward asks for one.
        scale: `probability`: a verdict without one counts by its label (safe 1, controversial 1/2,
            unsafe 0). `hard`: 1 for safe, else 0. Undecided is 0 on both scales.
        domains: where the reward applies; empty: everywhere.
        attempts: how often a guard that does not answer is asked. The waits between are `wait`, 2
            `wait`, 4 `wait` ... seconds.
        wait: see `attempts`.

    Raises:
        ValueError: for an unknown part or scale.
        RewardError: by the reward, if the guard does not answer; training stops with a checkpoint.
    """
    parts_of = {
        "min": (Part.THINKING, Part.ANSWER),
        "thinking": (Part.THINKING,),
        "answer": (Part.ANSWER,),
        "full": (Part.FULL,),
    }
    if part not in parts_of or scale not in ("probability", "hard"):
        raise ValueError(
            f"guard reward: expected part in {', '.join(parts_of)} and scale probability or hard, "
            f"got {part}, {scale}"
        )

    def safety(prompts: Texts, completions: Texts, **columns: Any) -> Scores:
        samples = _samples(prompts, completions, columns, domains)

        # The guard gets the parts of all rows at once.
        items: list[Item] = []
        row_of_item: list[int] = []
        for row, sample in enumerate(samples):
            if sample is None:
                continue
            for judged_part in _present(sample, parts_of[part]):
                items.append(Item(sample.request, _text(sample, judged_part), judged_part))
                row_of_item.append(row)
        verdicts = _ask(guard, items, attempts, wait)

        # A completion is as safe as its least safe part.
        rewards: Scores = [None] * len(samples)
        for row, verdict in zip(row_of_item, verdicts, strict=True):
            value = _safety(verdict, scale)
            lowest = rewards[row]
            rewards[row] = value if lowest is None else min(lowest, value)
        return rewards

    safety.__name__ = f"safety_{part}"
    return safety


def _present(sample: Sample, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts to judge: of thinking and answer, a blank thought is left out."""
    if len(parts) > 1 and not sample.thinking.strip():
        return parts[1:]
    return parts


def _text(sample: Sample, part: Part) -> str:
    texts = {
        Part.THINKING: sample.thinking,
        Part.ANSWER: sample.answer,
        Part.FULL: sample.text,
    }
    return texts[part]


def _safety(verdict: Verdict, scale: str) -> float:
    if verdict.label == "undecided":
        return 0.0
    if scale == "hard":
        return float(verdict.label == "safe")
    if math.isnan(verdict.p_unsafe):  # the guard gave a label alone
        return {"safe": 1.0, "controversial": 0.5}.get(verdict.label, 0.0)
    return 1.0 - verdict.p_unsafe


def over_refusal_reward(
    guard: Guard | None = None,
    *,
    domains: Collection[str] = BENIGN,
    attempts: int = 5,
    wait: float = 1.0,
) -> Reward:
    """A reward of 1 for an answer to a benign request, 1/2 for refusal then help, 0 for refusal.

    The rubric is RECAP's (arXiv 2510.00938). A missing answer gives 0.

    Args:
        guard: a judge of refusals, such as WildGuard. It answers yes or no; if it answers neither,
            the row gets 0. None: the rules of `cotlens.classify_refusal`.
        domains: where the reward applies; empty: everywhere.
        attempts: as in `guard_reward`.
        wait: as in `guard_reward`.
    """
    worth = {
        Refusal.COMPLIANCE: 1.0,
        Refusal.PARTIAL: 0.5,
        Refusal.FULL: 0.0,
        Refusal.UNKNOWN: 0.0,
    }

    def compliance(prompts: Texts, completions: Texts, **columns: Any) -> Scores:
        samples = _samples(prompts, completions, columns, domains)
        if guard is None:
            return _score_each(samples, lambda sample: worth[classify_refusal(sample.answer)])

        # Rows outside the domains are not sent to the guard.
        items = []
        for sample in samples:
            if sample is not None:
                items.append(Item(sample.request, sample.answer, Part.ANSWER))

        # The verdicts come in the order of the rows that were sent.
        verdicts = iter(_ask(guard, items, attempts, wait))
        return _score_each(samples, lambda _: float(next(verdicts).refusal is False))

    return compliance


def _ask(guard: Guard, items: Sequence[Item], attempts: int, wait: float) -> list[Verdict]:
    """The verdicts on all items. A guard that does not answer is asked again, ever later."""
    for attempt in range(1, attempts + 1):
        try:
            return _judge_texts(guard, items)
        except (TraceError, OSError) as error:  # what an endpoint raises when it does not answer
            if attempt == attempts:
                raise RewardError(
                    f"{guard.name} did not answer in {attempts} attempts: {error}"
                ) from error
            time.sleep(wait * 2 ** (attempt - 1))
    raise ValueError(f"attempts must be at least 1, got {attempts}")


def _judge_texts(guard: Guard, items: Sequence[Item]) -> list[Verdict]:
    """The verdicts on all items; blank texts are undecided and not sent to the guard."""
    has_text = [bool(item.text.strip()) for item in items]
    verdicts = iter(judge(guard, list(compress(items, has_text))))

    all_verdicts = []
    for is_judged in has_text:
        verdict = next(verdicts) if is_judged else Verdict("undecided")
        all_verdicts.append(verdict)
    return all_verdicts


# --- skill and form ---


def correctness_reward(*, column: str = "answer", seconds: float = 5.0) -> Reward:
    """A reward of 1 for an answer equal to the row's gold answer as mathematics, else 0.

    None if the row has no gold answer.

    Args:
        column: holds the gold answer.
        seconds: time limit of one comparison; an answer that takes longer gets 0.
    """

    def correctness(prompts: Texts, completions: Texts, **columns: Any) -> Scores:
        golds = columns.get(column) or [None] * len(prompts)
        samples = _samples(prompts, completions, columns)

        rewards: Scores = []
        for sample, gold in zip(samples, golds, strict=True):
            if sample is None or _is_missing(gold):
                rewards.append(None)
            else:
                rewards.append(_correct(sample.answer, str(gold), seconds))
        return rewards

    return correctness


def _is_missing(gold: Any) -> bool:
    if gold is None:
        return True
    # Tables of pandas have NaN where a row has no gold answer.
    return str(gold).strip() in ("", "nan")


def _correct(answer: str, gold: str, seconds: float) -> float:
    try:
        return float(grade(answer, gold, seconds=seconds) is Grade.CORRECT)
    except ValueError as error:
        raise RewardError(f"correctness: {error}") from None


def format_reward(*, domains: Collection[str] = ()) -> Reward:
    """A reward of 1 for exactly one closed thought, else 0.

    ThinkSafe's rule (arXiv 2601.23143), and stricter. One opening and one closing delimiter of any
    known family, in this order, nothing before the first, and neither thought nor answer blank (our
    addition: an empty thought would earn safety and form for nothing). If the prompt opened the
    thought (R1's distills), one closing delimiter and no opening one. Delimiters that the text only
    mentions count too. Where each message has a header (gpt-oss), one thought and one answer.

    Args:
        domains: where the reward applies; empty: everywhere.
    """

    def format(prompts: Texts, completions: Texts, **columns: Any) -> Scores:
        samples = _samples(prompts, completions, columns, domains)
        return _score_each(samples, _has_form)

    return format


def _has_form(sample: Sample) -> float:
    return float(is_well_formed(sample.text, sample.prompt))


# --- what every reward reads ---


def _samples(
    prompts: Texts,
    completions: Texts,
    columns: Mapping[str, Any],
    domains: Collection[str] = (),
) -> list[Sample | None]:
    """The completions taken apart; None for rows outside these domains (none: all rows)."""
    if domains and "domain" not in columns:
        raise RewardError(
            f"the rows have no column `domain`; a reward asks for {', '.join(domains)}. "
            "Or set domains: []"
        )
    empty = [None] * len(prompts)
    requests = columns.get("request") or empty
    row_domains = columns["domain"] if domains else empty

    samples: list[Sample | None] = []
    rows = zip(prompts, completions, requests, row_domains, strict=True)
    for prompt, completion, request, domain in rows:
        if domains and domain not in domains:
            samples.append(None)
        elif isinstance(prompt, str) and isinstance(completion, str):
            samples.append(_take_text_apart(prompt, completion, request))
        else:
            samples.append(take_apart(prompt, completion, request))
    return samples


def _score_each(samples: Sequence[Sample | None], score: Callable[[Sample], float]) -> Scores:
    """The score of each sample, in order; None where there is no sample."""
    scores: Scores = []
    for sample in samples:
        if sample is None:
            scores.append(None)
        else:
            scores.append(score(sample))
    return scores


def take_apart(prompt: str | list, completion: str | list, request: str | None = None) -> Sample:
    """The parts of one completion.

    Args:
        prompt: rendered, or a list of messages.
        completion: what the model wrote, as text or as a list of messages (TRL 1.16).
        request: what the user asked, if the row says so: a guard should not read template and
            system prompt.
    """
    request = request or request_of(prompt)
    rendered = prompt if isinstance(prompt, str) else ""
    message = {"content": completion} if isinstance(completion, str) else completion[-1]
    text = str(message.get("content") or "")

    # The trainer may have parsed the thought out of the content.
    thinking = _parsed_thinking(message)
    if isinstance(thinking, str):
        return Sample(
            prompt=rendered,
            request=request,
            text=f"<think>{thinking}</think>{text}",
            thinking=thinking,
            answer=text,
            status=Status.CLOSED if text.strip() else Status.OPEN,
        )

    # Else the delimiters say where it is; the prompt may have opened it.
    split = split_think(text, rendered)
    thoughts = [span.of(text) for span in split.think]
    return Sample(
        prompt=rendered,
        request=request,
        text=text,
        thinking="\n\n".join(thoughts),
        answer=_outside(text, rendered, split),
        status=split.status,
    )


_take_text_apart = lru_cache(maxsize=1024)(take_apart)  # every reward reads the same texts


def _parsed_thinking(message: Mapping[str, Any]) -> Any:
    for field in ("reasoning_content", "reasoning", "thinking"):
        if message.get(field):
            return message[field]
    return None


def _outside(text: str, prompt: str, split: Split) -> str:
    """All text that is not thinking, if the thought is closed.

    Text before the first thought or between thoughts must not escape a judge.
    """
    pair = delimiters_of(text, prompt)
    if split.status is not Status.CLOSED or pair is None:
        return split.answer.of(text)

    # Each gap runs from the end of one thought to the start of the next.
    gaps = []
    start = 0
    for span in split.think:
        gaps.append(text[start : span.start])
        start = span.stop
    tags = re.compile("|".join(map(re.escape, pair)), re.IGNORECASE)
    before = [tags.sub("", gap).strip() for gap in gaps]

    # Between the last thought and the answer there may be a call, or what wraps the answer.
    answer = split.answer.of(text).strip() or tags.sub("", text[start:]).strip()
    return "\n\n".join(filter(None, [*before, answer]))


# --- from a recipe ---


def make_rewards(
    config: Sequence[Mapping[str, Any]], guard: Guard | None = None
) -> tuple[list[Reward], list[float]]:
    """Reward functions and their weights from a recipe.

        rewards:
          - {name: safety, weight: 1.0, part: full, guard: {model: meta-llama/Llama-Guard-3-8B}}
          - {name: correctness, weight: 1.0}

    Args:
        config: one entry per reward: `name`, `weight` (1), and options of the function of that
            name.
        guard: a judge that is already loaded. Without it, each safety reward names its own: `model`
            (and `family`, `device`, `dtype`) for `load_guard`, or `url` and `model` for a judge at
            an endpoint.

    Raises:
        ValueError: for an unknown name or option.
    """
    check_rewards(config)

    functions = []
    weights = []
    for entry in config:
        options = dict(entry)
        name = options.pop("name")
        weight = options.pop("weight", 1.0)

        # Safety always needs a guard; over-refusal takes one if the entry names it.
        settings = options.pop("guard", None)
        if name == "safety" or "guard" in entry:
            options["guard"] = guard or _load_guard(settings)

        make_reward = _MAKERS[name]
        functions.append(make_reward(**options))
        weights.append(float(weight))
    return functions, weights


_MAKERS: Mapping[str, Callable[..., Reward]] = {
    "safety": guard_reward,
    "correctness": correctness_reward,
    "format": format_reward,
    "over_refusal": over_refusal_reward,
}


def check_rewards(config: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for an unknown name or option, before any weights are loaded."""
    if not config:
        raise ValueError("no rewards: the recipe needs a list `rewards` with at least one entry")

    for entry in config:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or name not in _MAKERS:
            raise ValueError(
                f"rewards: expected entries with a name of {', '.join(_MAKERS)}, got {entry!r}"
            )

        parameters = inspect.signature(_MAKERS[name]).parameters
        options = {"name", "weight", "guard", *parameters}
        unknown = [key for key in entry if key not in options]
        if unknown:
            raise ValueError(
                f"reward {name}: unknown {', '.join(unknown)}; "
                f"it takes {', '.join(sorted(options))}"
            )


def _load_guard(settings: Mapping[str, Any] | None) -> Guard:
    if not settings or "model" not in settings:
        raise ValueError(
            "reward safety: name its judge, e.g. guard: {model: meta-llama/Llama-Guard-3-8B}"
        )
    options = {key: value for key, value in settings.items() if key not in ("url", "model")}
    if "url" in settings:
        return EndpointGuard(settings["url"], settings["model"], **options)

    # Each process has its own guard, on the device of its own model.
    options.setdefault("device", str(PartialState().device))
    return load_guard(settings["model"], **options)
