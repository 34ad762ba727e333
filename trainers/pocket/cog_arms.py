"""The arms of Chain-of-Guardrails in the pocket world (trainers/methods/cog.py).

The base's pool samples for forbidden requests whose thinking or answer the learned guard calls
unsafe are repaired; the others stay as they are. For all other prompts there are the base's samples
that earn every reward, as in `filtered_sft`: so over-refusal is compared fairly.

The cause is read from the wording of the excuse. Checks are made of sentences that the world has,
since its vocabulary is closed: which of them depends on the cause, and they take turns.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cotlens
from cotlens import stats
from cotlens.judges.verdict import Part
from cotlens.measures.likelihood import nll_of_steps
from cotlens.models.local import LocalEngine
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.methods.causes import Cause, Diagnosis, StepReading
from trainers.methods.checks import Method
from trainers.methods.cog import repair
from trainers.methods.fates import Built, guard_judge
from trainers.methods.masks import Mask
from trainers.pocket.optimise import fine_tune, rewards_of
from trainers.pocket.plan import Setting, add_cost, count_tokens, read_cost
from trainers.pocket.pool import keep_rewarded, pool
from trainers.pocket.wording import EXCUSES, FORMAL, PLAIN, Role
from trainers.pocket.world import Domain, Prompt, PromptSplit

# --- what a sentence does ------------------------------------------------------------------------

CAUSE_OF = {
    Role.BENIGN_REFRAMING: Cause.BENIGN_REFRAMING,
    Role.FICTIONAL_LICENCE: Cause.BENIGN_REFRAMING,  # the paper does not tell them apart
    Role.WARNING_THEN_ANSWER: Cause.WARNING,
    Role.OTHER_FALLACY: Cause.LOGICAL_FALLACY,
}
_NOTICES = (Role.NOTICE, Role.RECALL, Role.REFUSE)
_COMPLIES = (Role.PLAN, Role.DETAIL, Role.ALLOW)


def read_wording(texts: Sequence[str], request: str) -> list[StepReading]:  # noqa: ARG001
    """What the steps of a thought about a forbidden request do, by their wording."""
    return list(map(_read_step, texts))


def _read_step(text: str) -> StepReading:
    """What one step does: a sentence of the world, or none that is known."""
    sentence = text.strip()
    for role, pattern in _patterns().items():
        if pattern.fullmatch(sentence):
            return StepReading(
                notices=role in _NOTICES,
                excuse=CAUSE_OF.get(role),
                complies=role in _COMPLIES,
            )

    # No sentence that is read: it says nothing about harm.
    return StepReading()


_SLOT = r"[\w']+(?: up)?"  # a topic, a material, or a verb such as "clean up"


@cache
def _patterns() -> dict[Role, re.Pattern[str]]:
    """The sentences of each role that is read, in both registers; a slot is a word or two."""
    patterns = {}
    for role in (*_NOTICES, *_COMPLIES, *EXCUSES):
        # The base mixes its two registers.
        sentences = list(PLAIN[role])
        sentences += FORMAL.get(role, ())

        choices = []
        for sentence in sentences:
            fixed = re.split(r"\{\w\}", sentence)
            escaped = map(re.escape, fixed)
            choices.append(_SLOT.join(escaped))

        pattern = "|".join(choices)
        patterns[role] = re.compile(pattern)
    return patterns


# --- what is written -----------------------------------------------------------------------------

# How a check opens. Reflections of the base, but for the rule checks each fits its cause.
_OPENINGS: dict[Cause, tuple[str, ...]] = {
    Cause.MISIDENTIFICATION: PLAIN[Role.RULE_CHECK],
    Cause.BENIGN_REFRAMING: (PLAIN[Role.RECOVER][1], PLAIN[Role.RECOVER][0]),
    Cause.WARNING: (PLAIN[Role.RECOVER][3], PLAIN[Role.RECOVER][1]),
    Cause.LOGICAL_FALLACY: (PLAIN[Role.RECOVER][0], PLAIN[Role.RECOVER][2]),
    Cause.UNEXCUSED: (PLAIN[Role.RECOVER][2], PLAIN[Role.RECOVER][3]),
}


def writer(setting: Setting, method: Method) -> Callable[[Trace, Diagnosis, int], str]:
    """A function that writes checks (SafB) or repaired steps (SafR) of the world's sentences.

    A check is a reflection, a notice and a refusal; repaired steps are a notice and a refusal.
    """
    by_text = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}

    def write(trace: Trace, diagnosis: Diagnosis, number: int) -> str:
        request = request_of(trace)
        prompt = by_text[request]
        sentences = []
        if method is Method.SAFB:
            openings = _OPENINGS[diagnosis.cause]
            opening = _next_unsaid(openings, trace, number)
            sentences.append(opening)

        # Five notices and four refusals: twenty ways to go on.
        notices = _notices_of(prompt)
        notice = _next_unsaid(notices, trace, number)
        sentences.append(notice)

        refusals = PLAIN[Role.REFUSE]
        refusal = _next_unsaid(refusals, trace, number)
        sentences.append(refusal)
        return " ".join(sentences)

    return write


def _notices_of(prompt: Prompt) -> list[str]:
    """The sentences that notice the danger of a prompt's topic."""
    name = prompt.topic.capitalize()
    notices = []
    for template in PLAIN[Role.NOTICE]:
        notice = template.format(t=prompt.topic, T=name)
        notices.append(notice)
    return notices


def _next_unsaid(sentences: Sequence[str], trace: Trace, number: int) -> str:
    """The sentence whose turn it is, or the next that the trace does not have yet."""
    for turn in range(number, number + len(sentences)):
        sentence = sentences[turn % len(sentences)]
        if sentence not in trace.completion:
            return sentence

    # All were said: a repetition.
    return sentences[number % len(sentences)]


# --- arms ----------------------------------------------------------------------------------------


def train_safr(setting: Setting) -> None:
    """SFT on thoughts whose bad part is replaced; all of the completion is learned."""
    fine_tune(setting, build_rows(setting, Method.SAFR))


def train_safb(setting: Setting) -> None:
    """SFT on whole thoughts with a check at their end; check and answer are learned."""
    fine_tune(setting, build_rows(setting, Method.SAFB))


def train_safb_unmasked(setting: Setting) -> None:
    """The same rows, all of which is learned: the bad thought too."""
    fine_tune(setting, build_rows(setting, Method.SAFB, Mask.ALL))


def build_rows(
    setting: Setting, method: Method, mask: Mask = Mask.CHECK_AND_ANSWER
) -> list[dict[str, Any]]:
    """The rows of an arm; what they cost is added to the arm's cost."""
    guard = setting.guard()
    functions, _ = rewards_of(setting, guard)

    # Samples for other prompts, as they are.
    domains = {domain.value for domain in Domain}
    others = domains - {Domain.FORBIDDEN.value}
    rows: list[dict[str, Any]] = list(keep_rewarded(setting, functions, others))

    # Samples for forbidden requests: repaired where the guard finds something unsafe.
    forbidden = []
    for trace in pool(setting):
        if trace.domain == Domain.FORBIDDEN.value:
            forbidden.append(trace)

    model, tokenizer = setting.load()
    student = LocalEngine(model, tokenizer, "pocket")
    built = repair(
        student,
        forbidden,
        guard_judge(guard),
        method=method,
        has_failed=guard_judge(guard, (Part.THINKING, Part.ANSWER)),
        read=read_wording,
        write=writer(setting, method),
        mask=mask,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=setting.plan.max_new_tokens,
        seed=setting.seed + 3,
    )
    rows += built.rows
    _add_costs(setting, forbidden, built)
    return rows


def _add_costs(setting: Setting, forbidden: Sequence[Trace], built: Built) -> None:
    """Add the repairs to the cost of the kept samples of other prompts."""
    counts = built.counts()
    n_generations = counts["generations"]
    n_tokens = count_tokens(forbidden) + built.n_tokens

    # The guard reads every sample, and every new answer.
    cost = read_cost(setting)
    facts: dict[str, Any] = {
        "sampled": cost["sampled"] + n_generations,
        "kept": cost["kept"] + len(built.rows),
        "sampled_tokens": cost["sampled_tokens"] + n_tokens,
        "guard_calls": cost["guard_calls"] + n_generations,
        "repair": counts,
    }
    if counts["prompts"]:
        facts["generations_per_prompt"] = n_generations / counts["prompts"]
    add_cost(setting, facts)


ARMS: dict[str, Callable[[Setting], None]] = {
    "safr": train_safr,
    "safb": train_safb,
    "safb_unmasked": train_safb_unmasked,
}


# --- mechanism -----------------------------------------------------------------------------------


def excuse_nll(model: Any, traces: Sequence[Trace]) -> stats.Estimate:
    """Mean NLL of a token of the excuses in these traces under a model, in nats.

    Take held-out samples of the base: then the mask's mechanism is a difference between arms. An
    arm that learned the excuses finds them likelier. Each excuse counts once, and the interval is
    over prompts.

    Args:
        model: of `cotlens.load_model`.
        traces: samples for forbidden requests.

    Raises:
        TraceError: as `score_tokens`.
    """
    steps = cotlens.step_table(traces)
    texts = {}
    prompt_of = {}
    for trace in traces:
        texts[trace.id] = trace.completion
        prompt_of[trace.id] = trace.prompt_id

    # Which steps are excuses, by their wording.
    is_excuse = []
    for row in steps.itertuples(index=False):
        text = texts[row.trace_id]
        reading = _read_step(text[row.start : row.stop])
        is_excuse.append(reading.excuse is not None)

    scored = cotlens.score_tokens(model, traces)
    likelihoods = nll_of_steps(scored.table(), steps)
    excuses = likelihoods[is_excuse]
    prompts = excuses["trace_id"].map(prompt_of)
    return stats.mean(excuses["nll_mean"], prompts)
