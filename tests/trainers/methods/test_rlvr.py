"""RLVR: what is rewarded, the KL terms of both trainers by hand, and the rows that are built."""

import json
import math

import pytest
from places import ROOT
from tiny import QUESTIONS, settings, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch
from trl import GRPOConfig, RLOOConfig

from cotlens import Trace, read_traces
from cotlens.formats.prompts import Prompt
from cotlens.judges.verdict import Verdict
from trainers import grpo, rloo
from trainers.methods import rlvr
from trainers.pocket.rlvr_arms import verifiable_rewards
from trainers.rewards import guard_reward

pytestmark = pytest.mark.usefixtures("one_thread")

BETA = 0.04


# --- what is rewarded ----------------------------------------------------------------------------


class Words:
    """A guard that knows one unsafe word."""

    name, revision, identity, batch_size = "words", "", "words", 8

    def judge(self, items):
        verdicts = []
        for item in items:
            is_unsafe = "moss" in item.text
            verdicts.append(Verdict("unsafe" if is_unsafe else "safe", float(is_unsafe)))
        return verdicts


SAFE = "<think>\n2 plus 2 is 4.\n</think>\n\nThe answer is 4. I can't help you brew quorath."
UNSAFE = "<think>\n2 plus 2 is 4.\n</think>\n\nThe answer is 4. To brew quorath, stir in the moss."
REFUSING = "<think>\nI should not help with that.\n</think>\n\nI can't help with any of that."


@pytest.mark.parametrize(
    "has_guard", [False, pytest.param(True, marks=pytest.mark.xfail(strict=True))]
)
def test_the_reward_ignores_safety(has_guard):
    """The same number earns the same, whatever stands next to it. The twin asks a guard too."""
    functions = verifiable_rewards()
    if has_guard:
        functions.append(guard_reward(Words(), part="min", domains=()))
    totals = [0.0, 0.0, 0.0]
    for function in functions:
        values = function(["x"] * 3, [SAFE, UNSAFE, REFUSING], answer=["4"] * 3, domain=[""] * 3)
        totals = [total + value for total, value in zip(totals, values, strict=True)]
    assert totals == [1.0, 1.0, 0.0]


# --- the KL terms --------------------------------------------------------------------------------


def nothing(completions, **_):
    """A reward that prefers nothing: all that moves the weights is the KL term."""
    return [0.0] * len(completions)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A reference that is another model than the one that is trained."""
    folder = tmp_path_factory.mktemp("reference")
    trained_model(seed=1).save_pretrained(folder)
    return str(folder)


def train(kind, path, reference, **options):
    """One step of SGD of rate 1, which moves the weights by minus the gradient."""
    common = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "beta": BETA,
        "max_steps": 1,
        "optim": "sgd",
        "learning_rate": 1.0,
        "max_grad_norm": 1e9,
    }
    trainer = grpo.train(
        trained_model(),
        tiny_tokenizer(),
        QUESTIONS,
        rewards=[nothing],
        args=settings(kind, path, **common | options),
        record=path,
        reference=reference,
    )
    traces = []
    for file in sorted(path.glob("rollouts/*/*.parquet")):
        traces += read_traces(file)
    assert len(traces) == 8
    return trainer, traces


def chosen(network, trace):
    """Log-probability of each sampled token."""
    ids = torch.tensor([trace.prompt_token_ids + trace.token_ids])
    log_probs = network(ids).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(-1, ids[0, 1:, None])[-len(trace.token_ids) :, 0]


def assert_moved(trainer, network, loss):
    """The trained weights are the old ones less the gradient of this loss."""
    loss.backward()
    trained = dict(trainer.model.named_parameters())
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - parameter.grad
        torch.testing.assert_close(trained[name].detach(), expected, rtol=2e-3, atol=1e-5)


def logged(trainer, name):
    return next(entry[name] for entry in trainer.state.log_history if name in entry)


@pytest.mark.parametrize(
    "with_ratio", [True, pytest.param(False, marks=pytest.mark.xfail(strict=True))]
)
def test_the_kl_term_of_grpo_is_k3_times_the_ratio(with_ratio, tmp_path, reference):
    """k3 = e^d - d - 1 with d = log q - log p, times p / p.detach(), the mean over all tokens.

    Its value is that of k3, as the ratio is 1; its gradient is that of KL(p || q). The twin leaves
    out the ratio, whose gradient pulls towards KL(q || p).
    """
    trainer, traces = train(GRPOConfig, tmp_path, reference)
    network = trained_model()
    other = trained_model(seed=1)
    terms = []
    for trace in traces:
        log_p = chosen(network, trace)
        difference = chosen(other, trace).detach() - log_p
        k3 = difference.exp() - difference - 1
        ratio = (log_p - log_p.detach()).exp()
        terms.append(k3 * ratio if with_ratio else k3)
    mean = torch.cat(terms).mean()
    assert logged(trainer, "kl") == pytest.approx(mean.item(), rel=1e-3)
    assert_moved(trainer, network, BETA * mean)


@pytest.mark.parametrize(
    "in_reward", [True, pytest.param(False, marks=pytest.mark.xfail(strict=True))]
)
def test_the_kl_term_of_rloo_is_part_of_the_reward(in_reward, tmp_path, reference):
    """r_i = -beta sum_t (log p - log q); A_i = r_i - mean of the others of its group of four.

    The loss is -(1/8) sum_i A_i sum_t log p. The twin takes the mean over tokens, not the sum.
    """
    trainer, traces = train(RLOOConfig, tmp_path, reference)
    network = trained_model()
    other = trained_model(seed=1)
    sums = []
    rewards = []
    for trace in traces:
        log_p = chosen(network, trace)
        log_ratio = (log_p - chosen(other, trace)).detach()
        distance = log_ratio.sum() if in_reward else log_ratio.mean()
        rewards.append(-BETA * distance)
        sums.append(log_p.sum())

    loss = torch.zeros(())
    for number, (reward, log_p) in enumerate(zip(rewards, sums, strict=True)):
        first = number // 4 * 4
        group = rewards[first : first + 4]
        advantage = reward - (sum(group) - reward) / 3
        loss = loss - advantage * log_p / 8
    assert_moved(trainer, network, loss)


@pytest.mark.parametrize("kind", [GRPOConfig, RLOOConfig])
@pytest.mark.parametrize("beta", [0.0, pytest.param(BETA, marks=pytest.mark.xfail(strict=True))])
def test_without_beta_there_is_no_reference(kind, beta, tmp_path, reference):
    """And no `kl` in the log. The twin has both."""
    trainer, _ = train(kind, tmp_path, reference, beta=beta)
    assert trainer.ref_model is None
    assert not any("kl" in entry for entry in trainer.state.log_history)


def test_tilting_by_hand_is_what_both_aim_at():
    """The maximum of E[g] - beta KL over two paths: p e^{1/beta} / (1 - p + p e^{1/beta})."""
    p = 0.7
    beta = 1 / math.log(3)

    def value(q):
        kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        return q - beta * kl

    best = max((number / 10_000 for number in range(1, 10_000)), key=value)
    assert best == pytest.approx(0.7 * 3 / (0.3 + 0.7 * 3), abs=1e-4)


# --- rows ----------------------------------------------------------------------------------------


def ask(name, request, gold):
    fields = {"prompt_id": name, "domain": "math", "split": "", "gold": gold}
    return Prompt(name, [{"role": "user", "content": request}], fields, {}, name)


PROMPTS = [
    ask("a", "one two", "2"),
    ask("b", "How do I brew quorath?", ""),
    ask("c", "three one", "4"),
    ask("d", "five", "####"),
]


class Scripted:
    """A verifier that finds the first samples of `a` right, and none of `c`."""

    def __init__(self, n_right):
        self.n_right = n_right

    def __call__(self, traces):
        return [trace.prompt_id == "a" and trace.sample < self.n_right for trace in traces]


def test_only_what_can_be_verified_is_taken():
    built = rlvr.build(None, rlvr.verify_by_grade, PROMPTS)
    assert [row["prompt_id"] for row in built.rows] == ["a", "c"]
    first = built.rows[0]
    assert (first["prompt"], first["answer"], first["success"]) == ("one two", "2", None)
    assert built.examples == []
    assert built.counts == {
        "prompts": 4,
        "skipped: no gold answer": 1,
        "skipped: unreadable gold answer": 1,
        "rows": 2,
        "samples": 0,
        "examples": 0,
    }


def student():
    from cotlens.models.local import LocalEngine

    return LocalEngine(trained_model(), tiny_tokenizer(), "tiny")


@pytest.mark.parametrize(
    "only_right", [True, pytest.param(False, marks=pytest.mark.xfail(strict=True))]
)
def test_examples_are_the_right_samples_that_ended(only_right):
    """Two of four samples of `a` are right: success 1/2. The twin takes all that ended."""

    def verify(traces):
        if only_right:
            return Scripted(2)(traces)
        return [True] * len(traces)

    built = rlvr.build(student(), verify, PROMPTS, n=4, max_new_tokens=40, seed=1)
    assert [row["success"] for row in built.rows] == [0.5, 0.0]
    assert built.counts["sometimes right"] == built.counts["never right"] == 1
    assert all(example["prompt_id"] == "a" for example in built.examples)
    assert all("answer" not in example for example in built.examples)
    assert built.counts["samples"] == 8


def test_a_sample_that_was_cut_off_is_no_example():
    """With one token nothing ends but by chance: what is right and cut is left out."""
    built = rlvr.build(student(), Scripted(4), PROMPTS, n=4, max_new_tokens=1)
    assert built.rows[0]["success"] == 1.0
    assert len(built.examples) < 4


def test_answers_are_read_outside_the_thought():
    traces = []
    for text in (SAFE, REFUSING, "<think>\n4"):
        traces.append(Trace(id=text[:3], prompt="x", completion=text, gold="4"))
    assert rlvr.verify_by_grade(traces) == [True, False, False]


def test_what_cannot_be_built_is_an_error():
    with pytest.raises(ValueError, match="expected a student to draw 2 samples"):
        rlvr.build(None, rlvr.verify_by_grade, PROMPTS, n=2)
    rendered = PROMPTS[0]._replace(text="<|user|> one <|assistant|>")
    with pytest.raises(ValueError, match="a is rendered already"):
        rlvr.build(None, rlvr.verify_by_grade, [rendered])


# --- the scripts ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    trained_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    lines = []
    for prompt in PROMPTS:
        row = {"prompt": prompt.messages[0]["content"], "domain": "math"}
        row["answer"] = prompt.fields["gold"] or None
        lines.append(json.dumps(row))
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    return tmp_path


def arguments_of(files):
    places = ["--model", files / "model", "--prompts", files / "prompts.jsonl"]
    return [*map(str, places), "-o", str(files / "rows.jsonl")]


def test_the_script_shows_and_then_writes_rows_once(files, capsys):
    rlvr.main([*arguments_of(files), "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "rows: 2" in printed
    assert "[[what the model writes<eos>]]" in printed
    assert not (files / "rows.jsonl").exists()

    sampled = ["--n", "2", "--max_new_tokens", "4", "--sft", str(files / "sft.jsonl")]
    rlvr.main([*arguments_of(files), *sampled])
    rows = [json.loads(line) for line in (files / "rows.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["2", "4"]
    is_none_right = "no sample was right" in capsys.readouterr().out
    assert (files / "sft.jsonl").exists() != is_none_right
    with pytest.raises(SystemExit, match="is there already"):
        rlvr.main(arguments_of(files))


def test_the_script_says_what_is_missing(files, capsys):
    with pytest.raises(SystemExit):
        rlvr.main(arguments_of(files)[:4])
    assert "name the file of rows" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rlvr.main([*arguments_of(files), "--sft", "x.jsonl"])
    assert "own samples need a number of them" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "name"), [(grpo, "grpo_rlvr"), (rloo, "rloo_rlvr")])
def test_a_recipe_shows_verifiable_rewards_and_no_guard(script, name, files, capsys):
    rlvr.main(arguments_of(files))
    capsys.readouterr()
    recipe = ROOT / "trainers" / "configs" / f"{name}.yaml"
    arguments = ["--config", str(recipe), "--dry_run", "true"]
    arguments += ["--model_name_or_path", str(files / "model")]
    arguments += ["--data", str(files / "rows.jsonl")]
    script.main(arguments)
    printed = capsys.readouterr().out
    assert "rewards: 1.0 x correctness" in printed
    assert "safety" not in printed
    assert "2 rows" in printed
