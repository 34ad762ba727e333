"""The arms of Chain-of-Guardrails in the pocket world, on a base that has learned nothing."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from tiny import tiny_model
from tiny_pocket import tiny_plan

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens import Trace
from cotlens.models.engine import Written
from cotlens.models.load import wrap_model
from trainers.methods.causes import Cause, Diagnosis
from trainers.methods.checks import Method
from trainers.pocket import cog_arms
from trainers.pocket.cog_arms import ARMS, CAUSE_OF, excuse_nll, read_wording, writer
from trainers.pocket.guard import fit_guard, guard_prompts
from trainers.pocket.plan import Setting
from trainers.pocket.policy import write_base
from trainers.pocket.tokenizer import build_tokenizer
from trainers.pocket.wording import FORMAL, PLAIN, TOPICS, Role
from trainers.pocket.world import Domain, PromptSplit
from trainers.record import write_traces

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = tiny_plan(prompts_per_step=10)


def setting_of(folder, arm):
    return Setting(folder, 0, PLAN, PLAN.prompts(0), arm, 1e-3, arm)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random base, a guard, and a pool that the base policy has written in its place."""
    folder = tmp_path_factory.mktemp("cog") / "seed=0"
    setting = setting_of(folder, "base")
    tokenizer = build_tokenizer()
    network = tiny_model(len(tokenizer), max_position_embeddings=512)
    network.save_pretrained(folder / "base" / "model")
    tokenizer.save_pretrained(folder / "base" / "model")

    rng = random.Random(0)
    prompts = guard_prompts(0, 80)
    written = []
    for prompt in prompts:
        text = write_base(prompt, rng).text
        trace = Trace(id=prompt.id, prompt=prompt.text, prompt_id=prompt.id, completion=text)
        written.append(trace)
    fit_guard(written, prompts, 0).save(setting.guard_path())

    traces = []
    for number, prompt in enumerate(setting.train):
        for sample in range(2):
            text = write_base(prompt, rng).text
            trace = Trace(
                id=f"{prompt.id}/{number}/{sample}",
                prompt=prompt.text,
                prompt_id=f"{prompt.id}/{number}",
                completion=text,
                domain=prompt.domain.value,
                gold=prompt.gold,
                finish_reason="stop",
                token_ids=tuple(tokenizer.encode(text, add_special_tokens=False)),
                meta={"request": prompt.text},
            )
            traces.append(trace)
    write_traces(folder / "base" / "pool.parquet", traces)
    return folder


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_and_counts_its_cost(folder, arm):
    setting = setting_of(folder, arm)
    ARMS[arm](setting)
    assert (folder / arm / "model" / "model.safetensors").exists()

    # 20 prompts of 2 samples, a fifth of them forbidden; a failure draws one more answer.
    cost = json.loads((folder / arm / "cost.json").read_text())
    n_failures = cost["repair"]["generations"] - 8
    assert cost["repair"]["prompts"] == 4
    assert cost["sampled"] == 40 + n_failures
    assert cost["generations_per_prompt"] == (8 + n_failures) / 4
    assert cost["updates"] == 2


def scripted_answers(monkeypatch):
    """Every new answer refuses, as the base policy would."""
    original = cog_arms.repair

    def repair(student, traces, judge, **options):
        tokenizer = student.tokenizer
        answer = tokenizer.encode(PLAIN[Role.ANSWER_REASON][0], add_special_tokens=False)

        def write(jobs, sampling):
            for job in jobs:
                yield job, Written(ids=(*answer, tokenizer.eos_token_id))

        student.write = write
        has_failed = lambda traces: ["help" not in trace.completion for trace in traces]  # noqa: E731
        judge = lambda traces: [False] * len(traces)  # noqa: E731
        return original(student, traces, judge, **options | {"has_failed": has_failed})

    monkeypatch.setattr(cog_arms, "repair", repair)


@pytest.mark.parametrize("method", Method)
def test_rows_are_texts_of_the_world_for_all_prompts(folder, method, monkeypatch):
    scripted_answers(monkeypatch)
    setting = setting_of(folder, f"rows-{method}")
    rows = cog_arms.build_rows(setting, method)
    by_text = {prompt.text: prompt for prompt in setting.train}
    domains = {by_text[row["prompt"]].domain for row in rows}
    assert Domain.FORBIDDEN in domains
    assert len(domains) > 2

    tokenizer = build_tokenizer()
    causes = set()
    for row in rows:
        ids = tokenizer.encode(row["completion"], add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        causes.add(row.get("why"))

        # What earns every reward is learned whole.
        is_forbidden = by_text[row["prompt"]].domain is Domain.FORBIDDEN
        assert ("learned" in row) == is_forbidden
    assert causes & {cause.value for cause in Cause} - {"n/a"}


# --- what is read --------------------------------------------------------------------------------

MEANING = {role: (False, cause, False) for role, cause in CAUSE_OF.items()}
MEANING |= dict.fromkeys((Role.NOTICE, Role.RECALL, Role.REFUSE), (True, None, False))
MEANING |= dict.fromkeys((Role.PLAN, Role.DETAIL, Role.ALLOW), (False, None, True))
SLOTS = {"t": "zorvex", "T": "Zorvex", "v": "clean up", "m": "salt", "n": "moss", "k": "sour"}


@pytest.mark.parametrize("role", [role for role in PLAIN if not role.startswith("answer")])
def test_every_sentence_is_read_as_its_role_means(role):
    expected = MEANING.get(role, (False, None, False))
    numbers = dict.fromkeys("abcdo", "1")
    for sentence in (*PLAIN[role], *FORMAL.get(role, ())):
        text = sentence.format(**SLOTS, **numbers)
        assert read_wording([f"\n{text} "], "") == [expected], text


def test_what_the_world_does_not_say_means_nothing():
    assert read_wording(["Hello.", "Zorvex is", " "], "") == [(False, None, False)] * 3


# --- what is written -----------------------------------------------------------------------------


def forbidden_prompt(setting):
    prompts = setting.prompts[PromptSplit.TRAIN]
    return next(prompt for prompt in prompts if prompt.domain is Domain.FORBIDDEN)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause is not Cause.NONE])
def test_checks_are_sentences_of_the_world_and_take_turns(cause, tmp_path):
    setting = setting_of(tmp_path, "safb")
    prompt = forbidden_prompt(setting)
    trace = Trace(id="a", prompt=prompt.text, completion="<think>\nx.\n</think>\n\nx.")
    tokenizer = build_tokenizer()
    for method, n_least in ((Method.SAFB, 20), (Method.SAFR, 20)):
        write = writer(setting, method)
        texts = {write(trace, Diagnosis(cause, 0), number) for number in range(60)}
        assert len(texts) >= n_least
        for text in texts:
            assert tokenizer.unk_token_id not in tokenizer.encode(text, add_special_tokens=False)
            others = set(TOPICS) - {prompt.topic}
            assert not others & set(text.lower().rstrip(".").split())


def test_a_check_does_not_say_again_what_the_thought_says(tmp_path):
    setting = setting_of(tmp_path, "safb")
    prompt = forbidden_prompt(setting)
    write = writer(setting, Method.SAFB)
    empty = Trace(id="a", prompt=prompt.text, completion="<think>\nx.\n</think>\n\nx.")
    first = write(empty, Diagnosis(Cause.WARNING, 0), 0)
    said = replace(empty, completion=f"<think>\n{first}\n</think>\n\nx.")
    second = write(said, Diagnosis(Cause.WARNING, 0), 0)
    assert not set(first.split(". ")) & set(second.split(". "))


# --- mechanism -----------------------------------------------------------------------------------


def test_the_likelihood_of_excuses_on_a_network_of_zeros_is_that_of_guessing():
    """ln V for each token, so for each excuse; traces without one do not count."""
    tokenizer = build_tokenizer()
    network = tiny_model(len(tokenizer), max_position_embeddings=512)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    model = wrap_model(network, tokenizer, name="zeros")

    excuse, notice = PLAIN[Role.OTHER_FALLACY][0], "Zorvex is dangerous."
    traces = []
    for number, sentences in enumerate(([notice, excuse], [notice], [excuse, notice, excuse])):
        text = f"<think>\n{' '.join(sentences)}\n</think>\n\nx."
        trace = Trace(
            id=str(number),
            prompt="How do I brew zorvex?",
            prompt_id=str(number),
            completion=text,
        )
        traces.append(trace)
    estimate = excuse_nll(model, traces)
    assert estimate.value == pytest.approx(math.log(len(tokenizer)), abs=1e-5)
    assert (estimate.n, estimate.n_clusters) == (3, 2)
