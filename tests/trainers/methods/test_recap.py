"""RECAP: what is cut and put where, what carries loss, and what a group's rewards are worth."""

import json

import pytest
from places import ROOT
from tiny import settings

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import pandas as pd
import torch
from trl.trainer.grpo_config import GRPOConfig

from cotlens import Trace, read_traces
from cotlens.formats.prompts import Prompt
from cotlens.models.local import LocalEngine
from cotlens.probes.cut import cut_thought
from cotlens.text.split import Status, part_text, split_trace
from cotlens.trace import TraceError
from trainers import grpo
from trainers.methods import recap
from trainers.pocket.base import TINY, build_model
from trainers.pocket.tokenizer import build_tokenizer
from trainers.render import opens_thought
from trainers.rewards import over_refusal_reward

pytestmark = pytest.mark.usefixtures("one_thread")

UNSAFE = "The user asks about zorvex. I can go on. Let me write down the steps."
REFUSING = "The user asks about tea. This might be risky. I should not help with that."
SAFE = "The user asks about tea. This is fine. So I can help."
REFUSAL = "I'm sorry, but I can't help you make tea."


def ask(name, domain, text, gold=""):
    fields = {"prompt_id": name, "domain": domain, "split": "train", "gold": gold}
    return Prompt(name, [{"role": "user", "content": text}], fields, {}, f"prompt {name}")


def write(name, request, thought, answer):
    return Trace(
        id=name,
        prompt=request,
        completion=f"<think>\n{thought}\n</think>\n\n{answer}",
        finish_reason="stop",
    )


BAD = "How do I brew zorvex?"
GOOD = "How do I brew tea?"
SUM = "What is 2 + 2?"
PROMPTS = [ask("bad", "harmful", BAD), ask("good", "benign", GOOD), ask("sum", "math", SUM, "4")]
DONORS = [
    write("unsafe", BAD, UNSAFE, "You can brew zorvex with salt."),
    write("refusing", GOOD, REFUSING, REFUSAL),
    write("safe", GOOD, SAFE, "You can make tea with water."),
    write("sum", SUM, "2 + 2 is 4.", "The answer is 4."),
    write("evaluation", "How do I brew brimlax?", UNSAFE, "You can make it with salt."),
]


def is_flawed(donors):
    """A judge that reads the names, and keeps what it was asked."""
    is_flawed.asked = [donor.id for donor in donors]
    return [donor.id in ("unsafe", "refusing", "evaluation") for donor in donors]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def student(tokenizer):
    return LocalEngine(build_model(tokenizer, seed=0, scale=TINY), tokenizer, "tiny")


def after_steps(n):
    return lambda donor, _: cut_thought(donor, steps=n)


def build(student, **options):
    options = {"alpha": 1.0, "cut": after_steps(2)} | options
    return recap.build(student, is_flawed, PROMPTS, DONORS, **options)


# --- rows ----------------------------------------------------------------------------------------


def test_unsafe_for_harmful_refusing_for_harmless_none_for_mathematics(student, tokenizer):
    built = build(student)
    bad, good, maths = built.rows
    assert bad["prefill"] == "<think>\nThe user asks about zorvex. I can go on."
    assert good["prefill"] == "<think>\nThe user asks about tea. This might be risky."
    assert (maths["prefill"], maths["why"], maths["answer"]) == ("", "no safety", "4")
    assert [row["source"] for row in built.rows] == ["unsafe", "refusing", ""]
    assert [row["why"] for row in built.rows] == ["prefixed", "prefixed", "no safety"]

    # Every row is text, and ends where the model goes on: inside the thought.
    for row, prompt in zip(built.rows, PROMPTS, strict=True):
        request = prompt.messages[0]["content"]
        rendered = grpo.prepare(tokenizer, [{"prompt": request}])[0]["prompt"]
        assert row["prompt"] == rendered + row["prefill"]
        assert row["request"] == request
        assert opens_thought(row["prompt"]) == bool(row["prefill"])


def test_donors_of_other_prompts_and_of_mathematics_are_not_even_judged(student):
    built = build(student)
    assert is_flawed.asked == ["unsafe", "refusing", "safe"]
    assert built.counts == {
        "donors": 5,
        "donors with a prompt and a thought": 3,
        "donors wanted": 2,
        "prefixed": 2,
        "no safety": 1,
    }


def test_aligned_takes_sound_thoughts(student):
    bad, good, _ = build(student, aligned=True).rows
    assert (bad["prefill"], bad["why"]) == ("", "no donor")
    assert good["prefill"] == "<think>\nThe user asks about tea. This is fine."


@pytest.mark.parametrize(
    ("alpha", "n_prefixed"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)]
)
def test_alpha_is_the_share_of_each_kind(student, alpha, n_prefixed):
    """Four prompts of each kind, of which all have donors; a larger share keeps no other count."""
    prompts = [ask(f"{prompt.id}{i}", prompt.fields["domain"], prompt.messages[0]["content"])
               for i in range(4) for prompt in PROMPTS]  # fmt: skip
    built = recap.build(student, is_flawed, prompts, DONORS, alpha=alpha, cut=after_steps(1))
    prefixed = [row["domain"] for row in built.rows if row["prefill"]]
    assert sorted(prefixed) == ["benign"] * n_prefixed + ["harmful"] * n_prefixed
    again = recap.build(student, is_flawed, prompts, DONORS, alpha=alpha, cut=after_steps(1))
    assert again == built


def test_the_share_is_filled_from_prompts_that_have_a_donor(student):
    """Two harmful prompts, one with a donor: half of two is that one."""
    prompts = [ask("none", "harmful", "How do I brew quorath?"), PROMPTS[0]]
    built = recap.build(student, is_flawed, prompts, DONORS, alpha=0.5, cut=after_steps(1))
    assert [row["why"] for row in built.rows] == ["no donor", "prefixed"]


def test_a_whole_thought_ends_before_its_last_line_break(student):
    """The model may add to it; after the line break it could only close the thought."""
    for n in (3, 9):
        bad = build(student, cut=after_steps(n)).rows[0]
        assert bad["prefill"] == "<think>\n" + UNSAFE


def test_a_donor_that_cannot_be_cut_makes_room_for_the_next(student):
    def cut(donor, _):
        if donor.id == "unsafe":
            raise TraceError("no")
        return cut_thought(donor, steps=1)

    assert build(student, cut=cut).rows[0]["why"] == "no fitting cut"
    second = write("evaluation", BAD, UNSAFE, "x.")
    rows = recap.build(student, is_flawed, PROMPTS, [*DONORS, second], alpha=1.0, cut=cut).rows
    assert rows[0]["source"] == "evaluation"


def test_without_a_judge_donors_are_taken_as_they_are(student):
    built = recap.build(student, None, PROMPTS, DONORS, alpha=1.0)
    assert built.rows[0]["source"] == "unsafe"
    assert built.rows[1]["source"] in ("refusing", "safe")
    with pytest.raises(ValueError, match="expected alpha from 0 to 1, got 2"):
        build(student, alpha=2)


def test_a_guard_reads_thoughts_of_harmful_donors_and_rules_read_answers():
    class Guard:
        name, revision, identity, batch_size = "words", "", "words", 8

        def judge(self, items):
            from cotlens.judges.verdict import Verdict

            labels = []
            for item in items:
                labels.append("unsafe" if "I can go on" in item.text else "safe")
            return [Verdict(label) for label in labels]

    from dataclasses import replace

    donors = [
        replace(DONORS[0], domain="harmful"),
        replace(DONORS[0], id="calm", domain="harmful", completion="<think>\nNo.\n</think>\n\nx."),
        replace(DONORS[1], domain="benign"),
        replace(DONORS[2], domain="benign"),
        replace(DONORS[2], id="cut", domain="benign", completion="<think>\nSo", finish_reason=""),
    ]
    assert recap.judge_by(Guard())(donors) == [True, False, True, False, None]


# --- training ------------------------------------------------------------------------------------

PREFIX = "<think>\nThe user asks about zorvex. I can go on."


def test_the_prefix_is_encoded_as_a_text_of_the_models_own(tokenizer):
    """ids(prompt) + ids(prefix) = ids(prompt + prefix), and no word is unknown."""
    row = prefixed_row(tokenizer)
    prompt_ids = tokenizer(row["prompt"].removesuffix(PREFIX))["input_ids"]
    prefix_ids = tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
    assert tokenizer(row["prompt"])["input_ids"] == prompt_ids + prefix_ids
    assert tokenizer.decode(prefix_ids) == PREFIX


def prefixed_row(tokenizer, *, in_completion=True):
    row = grpo.prepare(tokenizer, [{"prompt": BAD, "domain": "harmful", "prompt_id": "bad"}])[0]
    row["prompt"] += PREFIX
    if in_completion:
        row["prefill"] = PREFIX
    return row


def plain_row(tokenizer):
    return grpo.prepare(tokenizer, [{"prompt": GOOD, "domain": "benign", "prompt_id": "good"}])[0]


def train(path, rows, tokenizer, rewards, **options):
    common = {
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "beta": 0.0,
        "loss_type": "grpo",
        "max_steps": 1,
    }
    network = build_model(tokenizer, seed=0, scale=TINY)
    args = settings(GRPOConfig, path, **common | options)
    trainer = grpo.train(
        network, tokenizer, rows, rewards=rewards, args=args, record=path, rendered=True
    )
    traces = []
    for file in sorted(path.glob("rollouts/*/*.parquet")):
        traces += read_traces(file)
    return trainer, traces


def first_of_bad(prompts, completions, domain, **_):
    """1 for the first completion of the harmful prompt, 0 for all others."""
    first = domain.index("harmful")
    return [float(number == first) for number in range(len(completions))]


def n_new(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    path = tmp_path_factory.mktemp("trained")
    rows = [prefixed_row(tokenizer), plain_row(tokenizer)]
    trainer, traces = train(path, rows, tokenizer, [first_of_bad, n_new])
    return trainer, traces


@pytest.mark.parametrize(
    "in_completion", [True, pytest.param(False, marks=pytest.mark.xfail(strict=True))]
)
def test_the_record_has_the_prefix_in_the_completion_and_not_in_its_tokens(
    in_completion, tokenizer, tmp_path
):
    """Without the column `prefill`, the record cannot tell prefix from prompt."""
    rows = [prefixed_row(tokenizer, in_completion=in_completion), plain_row(tokenizer)]
    _, traces = train(tmp_path, rows, tokenizer, [n_new])
    prefix_ids = tuple(tokenizer(PREFIX, add_special_tokens=False)["input_ids"])
    prefixed = [trace for trace in traces if trace.domain == "harmful"]
    assert len(prefixed) == 4
    for trace in prefixed:
        assert trace.prompt_token_ids[-len(prefix_ids) :] == prefix_ids
        assert tokenizer.decode(trace.prompt_token_ids) == trace.prompt + PREFIX

        # The tokens begin where the prefix ends.
        assert trace.completion.startswith(PREFIX)
        assert trace.token_starts[0] == len(PREFIX)
        written = trace.completion[len(PREFIX) :]
        text_ids = [i for i in trace.token_ids if i != tokenizer.eos_token_id]
        assert tokenizer.decode(text_ids) == written
        assert trace.meta["prefill"] == PREFIX

    for trace in traces:
        if trace.domain == "benign":
            assert trace.prompt == rows[1]["prompt"]
            assert trace.token_starts[0] == 0


def test_a_reader_sees_one_thought_from_the_prefix_to_the_models_end(trained):
    """The thinking begins with the donor's words, and an open thought is no answer."""
    _, traces = trained
    for trace in traces:
        if trace.domain != "harmful":
            continue
        split = split_trace(trace)
        thinking = part_text(trace, "thinking")
        assert split.think[0].start == len("<think>")
        assert thinking.startswith("\nThe user asks about zorvex. I can go on.")
        if split.status is Status.OPEN:
            assert part_text(trace, "answer") == ""


@pytest.mark.parametrize(
    "n_extra", [0, pytest.param(len(PREFIX.split()), marks=pytest.mark.xfail(strict=True))]
)
def test_lengths_count_no_token_of_the_prefix(trained, n_extra):
    """The mean of what was drawn: a reward that counts ids agrees with TRL's log.

    The twin counts the words of the prefix too.
    """
    trainer, traces = trained
    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    lengths = [len(trace.token_ids) for trace in traces]
    assert max(lengths) <= 12
    assert logged["completions/mean_length"] == sum(lengths) / 8 + n_extra / 2
    assert [trace.meta["rewards"]["n_new"] for trace in traces] == lengths


@pytest.mark.parametrize(
    "scale", ["group", pytest.param("none", marks=pytest.mark.xfail(strict=True))]
)
def test_a_group_of_1_0_0_0_and_one_of_zeros(tokenizer, tmp_path, monkeypatch, scale):
    """Mean 1/4, std with n - 1 is 1/2: (1 - .25)/.5001 = 1.4997, -.25/.5001 = -.4999.

    The twin does not divide by the deviation.
    """
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.print_prompt_completions_sample", lambda *_, **__: None
    )
    rows = [prefixed_row(tokenizer), plain_row(tokenizer)]
    trainer, traces = train(
        tmp_path, rows, tokenizer, [first_of_bad], log_completions=True, scale_rewards=scale
    )
    (path,) = tmp_path.glob("completions/*.parquet")
    advantages = pd.read_parquet(path)["advantage"].tolist()
    of_bad = []
    of_good = []
    for trace, advantage in zip(traces, advantages, strict=True):
        group = of_bad if trace.domain == "harmful" else of_good
        group.append(advantage)
    assert of_bad == pytest.approx([1.4997, -0.4999, -0.4999, -0.4999], abs=1e-4)
    assert of_good == [0, 0, 0, 0]

    logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert logged["frac_reward_zero_std"] == 0.5


@pytest.mark.parametrize(
    "with_prefix", [False, pytest.param(True, marks=pytest.mark.xfail(strict=True))]
)
def test_the_gradient_has_no_term_of_a_prefix_token(with_prefix, tokenizer, tmp_path):
    """One step of SGD of rate 1 moves the weights by minus the gradient of the printed formula.

    At the first update all ratios are 1, so the gradient is that of
    -(1/8) sum_i A_i (1/|o_i|) sum_t log p(o_it), t over the new tokens. The twin puts the prefix
    into the completion: t runs over its tokens too.
    """
    rows = [prefixed_row(tokenizer), plain_row(tokenizer)]
    options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1e9}
    trainer, traces = train(tmp_path, rows, tokenizer, [first_of_bad], **options)
    n_prefix = len(tokenizer(PREFIX, add_special_tokens=False)["input_ids"])

    network = build_model(tokenizer, seed=0, scale=TINY)
    loss = torch.zeros(())
    is_first = True
    for trace in traces:
        if trace.domain != "harmful":  # advantage 0
            continue
        advantage = 0.75 / 0.5001 if is_first else -0.25 / 0.5001
        is_first = False
        n_learned = len(trace.token_ids) + n_prefix * with_prefix
        ids = torch.tensor([trace.prompt_token_ids + trace.token_ids])
        log_probs = network(ids).logits[0, :-1].log_softmax(-1)
        chosen = log_probs.gather(-1, ids[0, 1:, None])[-n_learned:]
        loss = loss - advantage * chosen.mean() / 8
    loss.backward()

    trained = dict(trainer.model.named_parameters())
    for name, parameter in network.named_parameters():
        expected = parameter.detach() - parameter.grad
        torch.testing.assert_close(trained[name].detach(), expected, rtol=1e-3, atol=1e-5)


def test_rewards_on_the_answer_read_what_follows_the_prefix(tokenizer):
    """The prompt opened the thought: the completion's own closing tag ends it."""
    row = prefixed_row(tokenizer)
    texts = [
        " Wait, this is fine.\n</think>\n\nYou can make it.",
        f" No.\n</think>\n\n{REFUSAL}",
        " Wait, this is fine. You can",
    ]
    rewards = over_refusal_reward()([row["prompt"]] * 3, texts, domain=["benign"] * 3)
    assert rewards == [1.0, 0.0, 0.0]


def test_a_prompt_without_its_prefill_is_an_error(tokenizer):
    row = plain_row(tokenizer) | {"prefill": PREFIX}
    with pytest.raises(ValueError, match=r"row 1: its prompt ends in .*, not in its prefill"):
        grpo.prepare(tokenizer, [plain_row(tokenizer), row], rendered=True)


def test_a_conversation_among_rendered_prompts_is_an_error(tokenizer):
    """TRL looks at the first row alone."""
    messages = [{"role": "user", "content": GOOD}]
    with pytest.raises(ValueError, match="row 1: expected a rendered prompt, got list"):
        grpo.prepare(tokenizer, [plain_row(tokenizer), {"prompt": messages}], rendered=True)


# --- the scripts ---------------------------------------------------------------------------------


@pytest.fixture
def files(tokenizer, tmp_path):
    """A student on disk, prompts, and a donor's traces."""
    network = build_model(tokenizer, seed=0, scale=TINY)
    network.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    prompts = []
    for prompt in PROMPTS:
        fields = prompt.fields
        request = prompt.messages[0]["content"]
        prompts.append(
            {"prompt": request, "domain": fields["domain"], "answer": fields["gold"] or None}
        )
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    donors = []
    for donor in DONORS[:2]:
        donors.append({"prompt": donor.prompt, "completion": donor.completion})
    (tmp_path / "donors.jsonl").write_text("\n".join(map(json.dumps, donors)))
    return tmp_path


def arguments_of(files):
    return [
        *("--model", str(files / "model"), "--prompts", str(files / "prompts.jsonl")),
        *("--donors", str(files / "donors.jsonl"), "--alpha", "1"),
        *("-o", str(files / "rows.jsonl"), "--words", "8"),
    ]


def test_the_script_shows_and_then_writes_rows_once(files, capsys):
    recap.main([*arguments_of(files), "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "prompts with their beginnings: 3 rows" in printed
    assert "prefixed: 2" in printed
    assert "<think>\nThe user asks about zorvex.[[what the model writes" in printed
    assert not (files / "rows.jsonl").exists()

    recap.main(arguments_of(files))
    rows = [json.loads(line) for line in (files / "rows.jsonl").read_text().splitlines()]
    assert [row["domain"] for row in rows] == ["harmful", "benign", "math"]
    assert all(isinstance(row["prompt"], str) for row in rows)
    with pytest.raises(SystemExit, match="is there already"):
        recap.main(arguments_of(files))


def test_the_script_says_what_is_missing(capsys):
    for arguments, message in (
        (["--model", "m", "--prompts", "p"], "name the traces of a donor"),
        (
            ["--model", "m", "--prompts", "p", "--donors", "d", "--aligned", "true"],
            "needs a --guard",
        ),
    ):
        with pytest.raises(SystemExit):
            recap.main(arguments)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_the_recipe_shows_the_prefix_outside_of_the_brackets(files, capsys, loss_type):
    recap.main(arguments_of(files))
    capsys.readouterr()
    recipe = ROOT / "trainers" / "configs" / "grpo_recap.yaml"
    arguments = ["--config", str(recipe), "--dry_run", "true", "--loss_type", loss_type]
    arguments += ["--model_name_or_path", str(files / "model")]
    arguments += ["--data", str(files / "rows.jsonl")]
    grpo.main(arguments)
    printed = capsys.readouterr().out
    assert "<think>\nThe user asks about zorvex.[[what the model writes" in printed
    assert "domains: benign, harmful, math" in printed
    assert "LoRA: " in printed


def test_the_template_opens_the_thought_once(tokenizer):
    """R1's distills: the prompt has the tag already, so the prefix has none."""
    import copy

    opening = copy.deepcopy(tokenizer)
    opening.chat_template = tokenizer.chat_template + (
        "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    )
    engine = LocalEngine(build_model(tokenizer, seed=0, scale=TINY), opening, "r1")
    bad = build(engine).rows[0]
    assert bad["prefill"] == "The user asks about zorvex. I can go on."
    assert bad["prompt"].endswith("<think>\nThe user asks about zorvex. I can go on.")
