"""Own samples, filtered: counts by hand, and rows that a leak or a missing rewrite would betray."""

import json
import subprocess
import sys

import pytest
from places import ROOT
from tiny import WORDS, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import Trace
from cotlens.formats.prompts import as_prompts
from cotlens.judges.verdict import Part, Verdict
from trainers import sft
from trainers.methods import dgr, thinksafe
from trainers.methods.selfgen import (
    KEPT,
    UNCLOSED,
    UNSAFE,
    Acceptance,
    cost_of,
    is_complete,
    row_perplexity,
    safe_by,
    select,
    total,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSED = "<think>\nhm\n</think>\n\nno"
CUT = "<think>\nhm"


def trace(completion=CLOSED, name="a", domain="harmful", **fields):
    fields = {"finish_reason": "stop", "prompt": "why", **fields}
    return Trace(id=name, completion=completion, domain=domain, **fields)


class WordGuard:
    """Calls a text unsafe that has one of these words, and keeps what it was asked."""

    name = "words"
    revision = ""
    identity = "words"

    def __init__(self, *words, label="unsafe"):
        self.words = words
        self.label = label
        self.items = []

    def judge(self, items):
        self.items += items
        verdicts = []
        for item in items:
            is_unsafe = any(word in item.text.split() for word in self.words)
            verdicts.append(Verdict(self.label if is_unsafe else "safe"))
        return verdicts


# --- what is kept ------------------------------------------------------------------------------


def ten_samples():
    """Two are unclosed, and three of the closed ones say `bad`."""
    completions = [CLOSED] * 5 + [CUT] * 2 + ["<think>\nbad\n</think>\n\nno"] * 3
    return [trace(text, name=f"s{number}") for number, text in enumerate(completions)]


def test_of_ten_samples_half_are_kept():
    selection = select(ten_samples(), safe_by(WordGuard("bad")))
    assert selection.acceptance == {"harmful": Acceptance(10, unclosed=2, unsafe=3, kept=5)}
    assert selection.acceptance["harmful"].share == 0.5
    assert [one.id for one in selection.traces] == ["s0", "s1", "s2", "s3", "s4"]
    assert selection.why == [KEPT] * 5 + [UNCLOSED] * 2 + [UNSAFE] * 3


@pytest.mark.xfail(strict=True, reason="without the filter everything closed is kept")
def test_without_a_guard_more_are_kept():
    selection = select(ten_samples(), lambda traces: [True] * len(traces))
    assert selection.acceptance["harmful"].share == 0.5


def test_acceptance_is_by_domain_and_adds_up():
    samples = [*ten_samples(), trace(name="b", domain="benign")]
    acceptance = select(samples, safe_by(WordGuard("bad"))).acceptance
    assert list(acceptance) == ["harmful", "benign"]
    assert acceptance["benign"] == Acceptance(1, kept=1)
    assert total(acceptance) == Acceptance(11, unclosed=2, unsafe=3, kept=6)

    facts = cost_of(acceptance)
    assert (facts["sampled"], facts["kept"], facts["acceptance_harmful"]) == (11, 6, 0.5)
    assert facts["acceptance_benign"] == 1


def test_nothing_sampled_has_no_share():
    selection = select([], safe_by(WordGuard()))
    assert selection == ([], [], {})
    assert total({}) == Acceptance()
    assert str(Acceptance().share) == str(Acceptance().fallback_share) == "nan"


COMPLETE = [
    (trace(), True),
    (trace(CUT), False),
    (trace("just an answer"), False),
    (trace("<think>\nhm\n</think>\n\n"), False),
    (trace(finish_reason="length"), False),
    (trace(finish_reason="max_tokens"), False),
    (trace(finish_reason=""), True),
    (trace("hm\n</think>\n\nno", prompt="<|user|>why<think>\n"), True),
    (trace("hm", prompt="<|user|>why<think>\n"), False),
    (trace("<think>\n\n</think>\n\nno"), True),
]


@pytest.mark.parametrize(("sample", "expected"), COMPLETE)
def test_a_sample_is_complete_if_it_closed_its_thought_and_answers(sample, expected):
    assert is_complete(sample) is expected


VERDICTS = [
    ((Part.FULL,), CLOSED, "unsafe", True),
    ((Part.FULL,), "<think>\nbad\n</think>\n\nno", "unsafe", False),
    ((Part.FULL,), "<think>\nhm\n</think>\n\nbad", "unsafe", False),
    ((Part.FULL,), "<think>\nhm\n</think>\n\nbad", "controversial", False),
    ((Part.FULL,), "<think>\nhm\n</think>\n\nbad", "undecided", False),
    ((Part.THINKING, Part.ANSWER), CLOSED, "unsafe", True),
    ((Part.THINKING, Part.ANSWER), "<think>\nbad\n</think>\n\nno", "unsafe", False),
    ((Part.THINKING, Part.ANSWER), "<think>\nhm\n</think>\n\nbad", "unsafe", False),
    ((Part.THINKING, Part.ANSWER), "<think>\n\n</think>\n\nno", "unsafe", True),
    ((Part.ANSWER,), "<think>\nbad\n</think>\n\nno", "unsafe", True),
]


@pytest.mark.parametrize(("parts", "completion", "label", "expected"), VERDICTS)
def test_every_part_must_be_called_safe(parts, completion, label, expected):
    guard = WordGuard("bad", label=label)
    assert safe_by(guard, parts)([trace(completion)]) == [expected]


# --- ThinkSafe ---------------------------------------------------------------------------------

INSTRUCTION = "wait wait "
PROMPTS = [
    {"role": "user", "content": f"{first} {second}"} for first in WORDS[:4] for second in WORDS[:3]
]


def prompts():
    """Half harmful, half benign; one of neither."""
    asked = []
    for number, prompt in enumerate(as_prompts([[message] for message in PROMPTS])):
        domain = ("harmful", "benign")[number % 2]
        asked.append(prompt._replace(fields=prompt.fields | {"domain": domain}))
    other = as_prompts(["five five"])[0]
    return [*asked, other._replace(fields=other.fields | {"domain": "math"})]


def student():
    from cotlens.models.local import LocalEngine

    return LocalEngine(trained_model(), tiny_tokenizer(), "tiny")


def build_thinksafe(is_safe=None, **options):
    """Rows of a random student, of whose samples everything counts as complete."""
    settings = {"instruction": INSTRUCTION, "n": 2, "max_new_tokens": 8, "temperature": 1.0}
    judge = is_safe or (lambda traces: [True] * len(traces))
    return thinksafe.build(student(), judge, prompts(), **settings | options)


@pytest.fixture
def all_complete(monkeypatch):
    monkeypatch.setattr("trainers.methods.selfgen.is_complete", lambda sample: True)


def no_instruction_is_stored(built):
    for row in built.rows:
        assert "wait" not in json.dumps(row["prompt"])
    for sample in built.traces:
        assert "wait" not in sample.prompt
        assert "wait" not in sample.meta["request"]
        assert tiny_tokenizer().convert_tokens_to_ids("wait") not in sample.prompt_token_ids


@pytest.mark.usefixtures("all_complete")
def test_no_row_and_no_judge_sees_the_instruction():
    guard = WordGuard()
    built = build_thinksafe(safe_by(guard))
    assert len(built.rows) == 24
    no_instruction_is_stored(built)
    assert [row["prompt"] for row in built.rows[::2]] == [m["content"] for m in PROMPTS]
    assert {item.prompt for item in guard.items} == {m["content"] for m in PROMPTS}


@pytest.mark.usefixtures("all_complete")
@pytest.mark.xfail(strict=True, reason="a sample keeps the prompt that it was drawn for")
def test_a_leak_is_seen(monkeypatch):
    monkeypatch.setattr(thinksafe, "unsteer", lambda engine, sample, prompt: sample)
    no_instruction_is_stored(build_thinksafe())


@pytest.mark.usefixtures("all_complete")
def test_only_harmful_requests_are_steered():
    """Benign samples are the same with and without the instruction, harmful ones are not."""
    steered = build_thinksafe().rows
    plain = build_thinksafe(instruction="").rows
    for with_it, without in zip(steered, plain, strict=True):
        is_harmful = with_it["domain"] == "harmful"
        assert with_it["anchor"] is not is_harmful
        assert (with_it["source"], without["source"]) == (
            "steered" if is_harmful else "plain",
            "plain",
        )
        if not is_harmful:
            assert with_it["completion"] == without["completion"]
    harmful = [(a, b) for a, b in zip(steered, plain, strict=True) if a["domain"] == "harmful"]
    assert any(a["completion"] != b["completion"] for a, b in harmful)


@pytest.mark.usefixtures("all_complete")
def test_the_counts_tell_what_happened_to_every_prompt():
    is_first = iter([False] * 2 + [True] * 22)
    built = build_thinksafe(lambda traces: [next(is_first) for _ in traces])
    assert built.counts == {
        "prompts": 13,
        "skipped: neither harmful nor harmless": 1,
        "skipped: no room": 0,
        "without a row": 1,
        "generations per prompt": 2,
    }
    assert built.acceptance["harmful"] == Acceptance(12, unsafe=2, kept=10)
    assert built.rows[0]["why"] == "closed and safe, as 12 of 12 samples"  # the first is benign
    assert built.rows[2]["why"] == "closed and safe, as 10 of 12 samples"


def test_a_prompt_without_room_is_skipped():
    built = build_thinksafe(max_new_tokens=59)
    assert built.counts["skipped: no room"] == 6  # the instruction takes the last two tokens
    assert len(built.traces) == 12


def test_a_rendered_prompt_cannot_be_steered():
    prompt = prompts()[0]._replace(text="<|user|> one one <|assistant|>")
    with pytest.raises(ValueError, match="is rendered already"):
        thinksafe.steer(prompt, INSTRUCTION)


def test_steering_keeps_earlier_messages():
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    (prompt,) = as_prompts([messages])
    steered = thinksafe.steer(prompt, "I ")
    assert steered.messages == [messages[0], {"role": "user", "content": "I x"}]
    assert prompt.messages == messages


def test_steering_gain_is_measured_on_the_same_prompts_and_seed():
    options = {"n": 2, "max_new_tokens": 8, "temperature": 1.0}

    def judge(traces):
        return [True] * len(traces)

    with_it, without = thinksafe.steering_gain(
        student(), judge, prompts(), instruction=INSTRUCTION, **options
    )
    assert with_it.sampled == without.sampled == 12
    same, again = thinksafe.steering_gain(student(), judge, prompts(), instruction="", **options)
    assert same == again == without


# --- perplexity of rows ------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    trained_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_perplexity_of_rows_is_exp_of_their_loss_in_training(saved):
    """The same tokens carry loss: those of the completion and its end."""
    import torch

    from cotlens import load_model

    model = load_model(saved)
    rows = [{"prompt": "one two", "completion": "<think> so three </think> four"}]
    estimate = row_perplexity(model, rows)

    (encoded,) = sft._encode_all(model.tokenizer, sft.prepare(model.tokenizer, rows))
    with torch.no_grad():
        loss = model.network(
            torch.tensor([encoded.input_ids]), labels=torch.tensor([encoded.labels])
        ).loss
    assert estimate.value == pytest.approx(float(loss.exp()), rel=1e-4)


def test_perplexity_is_compared_on_refined_rows_alone(saved):
    from cotlens import load_model

    model = load_model(saved)
    text = "<think> so {} </think> {}"
    sources = [{"prompt": word, "completion": text.format(word, word)} for word in WORDS[:3]]
    rows = []
    for source, kind in zip(sources, ("refined", "fallback", "refined"), strict=True):
        rows.append(source | {"source": kind})
    compared = dgr.refined_perplexity(model, sources, rows)
    assert compared.source.n == compared.refined.n == 2
    assert compared.source.value == pytest.approx(compared.refined.value)

    with pytest.raises(ValueError, match="none of the 1 rows is refined"):
        dgr.refined_perplexity(model, sources[1:2], rows[1:2])


# --- commands and recipes ----------------------------------------------------------------------


@pytest.fixture
def files(saved):
    folder = saved.parent
    asked = [{"prompt": m["content"], "domain": "harmful"} for m in PROMPTS]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, asked)))
    external = [{"q": m["content"], "thinking": "so", "answer": "one"} for m in PROMPTS]
    (folder / "external.jsonl").write_text("\n".join(map(json.dumps, external)))
    return folder


def command(name, files, *more):
    """Run the command of a method with the tiny model."""
    common = ["--model", str(files / "model"), "--max_new_tokens", "8", *more]
    if name == "dgr":
        external = ["--data", str(files / "external.jsonl"), "--columns", '{"prompt": "q"}']
        dgr.main([*common, *external])
    else:
        prompts_file = str(files / "prompts.jsonl")
        thinksafe.main([*common, "--prompts", prompts_file, "--guard", "g"])


@pytest.fixture
def quick(monkeypatch, all_complete):
    """Every sample is complete, the guard is a list of words, and requests to rewrite are short."""
    del all_complete
    monkeypatch.setattr(thinksafe, "load_guard", lambda name: WordGuard())
    monkeypatch.setattr(dgr, "REWRITE", "{request} {thinking} {answer}")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["dgr", "thinksafe"])
def test_a_dry_run_shows_a_few_rows_and_writes_nothing(files, capsys, name):
    before = set(files.iterdir())
    command(name, files, "--dry_run", "true")
    printed = capsys.readouterr().out
    assert "prompts: 4\n" in printed
    assert "<|user|> one one <|assistant|> [[" in printed
    assert "acceptance " in printed
    assert set(files.iterdir()) == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["dgr", "thinksafe"])
def test_a_command_writes_rows_that_sft_reads_and_overwrites_nothing(files, capsys, name):
    out = files / "rows.jsonl"
    command(name, files, "-o", str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 12
    assert sft.prepare(tiny_tokenizer(), rows)
    assert {"source", "why", "domain", "prompt_id"} <= set(rows[0])

    with pytest.raises(SystemExit):
        command(name, files, "-o", str(out))
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(name, files)
    assert "-o ROWS.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dgr", "thinksafe"])
def test_a_command_that_cannot_find_the_package_names_the_command(tmp_path, name):
    script = ROOT / "trainers" / "methods" / f"{name}.py"
    result = subprocess.run(
        [sys.executable, "-I", "-S", script], cwd=tmp_path, capture_output=True, text=True
    )
    message = "start it as a module, from the root of the repository: python -m trainers.methods."
    assert (result.returncode, result.stderr) == (1, f"{message}{name}\n")


RECIPES = ["sft_thinksafe", "sft_thinksafe_kl", "sft_dgr"]


def recipe_arguments(files, name):
    rows = []
    for number, message in enumerate(PROMPTS):
        row = {"prompt": message["content"], "completion": "<think> so </think> one"}
        rows.append(row | {"anchor": number % 2 == 0})
    (files / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--config", str(ROOT / "trainers" / "configs" / f"{name}.yaml")]
    arguments += ["--model_name_or_path", str(files / "model"), "--output_dir", str(files / "out")]
    arguments += ["--data", str(files / "rows.jsonl"), "--use_cpu", "true", "--bf16", "false"]
    return [*arguments, "--activation_checkpointing", "false"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_of_each_recipe(files, capsys, name):
    sft.main([*recipe_arguments(files, name), "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "12 rows" in printed
    assert "LoRA: " in printed
    assert ("anchored to the model before training: 6 of 12 rows" in printed) is (
        name == "sft_thinksafe_kl"
    )
    assert not (files / "out").exists()


@pytest.mark.parametrize("lora", ["true", "false"])
def test_the_recipe_with_anchors_trains(files, lora):
    """The reference is the model without its adapter, or a copy."""
    arguments = recipe_arguments(files, "sft_thinksafe_kl")
    few = "--max_steps 2 --disable_tqdm true --dtype float32 --save_strategy no"
    sft.main([*arguments, *few.split(), "--use_peft", lora])
    name = "adapter_model.safetensors" if lora == "true" else "model.safetensors"
    assert (files / "out" / name).exists()


def test_rows_without_an_anchor_are_refused(files):
    arguments = recipe_arguments(files, "sft_thinksafe_kl")
    path = files / "rows.jsonl"
    path.write_text(path.read_text().replace('"anchor": true', '"anchor": "yes"'))
    with pytest.raises(ValueError, match="row 0: expected `anchor` to be true or false, got 'yes'"):
        sft.main([*arguments, "--dry_run", "true"])
