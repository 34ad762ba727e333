"""R2D: what steps are marked with, which traces become rows, what a new word starts as."""

import json

import pytest
import torch
from places import ROOT
from tiny import settings, tiny_model, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

import cotlens
from cotlens import Trace
from cotlens.judges.verdict import Part, Verdict
from cotlens.measures.pivots import Pivot, pivot_table
from cotlens.text.steps import segment_trace
from trainers import sft
from trainers.bars import quiet
from trainers.merge import merge
from trainers.methods import pivots, r2d
from trainers.methods.losses import PivotTrainer
from trainers.methods.pivots import add_pivots, contrast_options, pivot_ids, pivot_margins
from trainers.methods.r2d import build, course, judge_by, mark, mark_traces, pivots_of, safe_answer

pytestmark = pytest.mark.usefixtures("one_thread")

SAFE, UNSAFE, RETHINK = Pivot
LETTERS = {"S": SAFE, "U": UNSAFE, "R": RETHINK}


class Guard:
    """Calls a text unsafe from the word HARM on, until the word BACK."""

    name = revision = identity = "scripted"

    def __init__(self):
        self.items = []

    def judge(self, items):
        self.items += items
        verdicts = []
        for item in items:
            is_unsafe = item.text.rfind("HARM") > item.text.rfind("BACK")
            label = "undecided" if "NEVER" in item.text else "unsafe" if is_unsafe else "safe"
            verdicts.append(Verdict(label))
        return verdicts


def trace(thinking, answer="Fine.", name="t", **fields):
    completion = f"<think>\n{thinking}\n</think>\n\n{answer}"
    fields = {"prompt": "How?", "finish_reason": "stop"} | fields
    return Trace(id=name, completion=completion, **fields)


def rows_of(*traces, guard=None, **options):
    return mark_traces(traces, judge_by(guard or Guard()), **options)


# --- tags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unsafe", "expected"),
    [
        ("", ""),
        ("0", "S"),
        ("1", "U"),
        ("000", "SSS"),
        ("0110", "SUUR"),
        ("01000", "SURSS"),
        ("0101", "SURU"),
        ("100110", "URSUUR"),
    ],
)
def test_pivots_by_hand(unsafe, expected):
    flags = [flag == "1" for flag in unsafe]
    assert pivots_of(flags) == [LETTERS[letter] for letter in expected]


@pytest.mark.parametrize(
    ("unsafe", "back", "expected"),
    [
        ("0100", "0010", "0100"),
        ("0100", "0000", "0111"),  # harm stands until it is taken back
        ("0000", "0100", "0000"),  # nothing to take back
        ("0110", "0010", "0111"),  # harm in the very step
        ("01010", "00101", "01010"),
    ],
)
def test_the_course_of_a_thought_by_hand(unsafe, back, expected):
    states = course([flag == "1" for flag in unsafe], [flag == "1" for flag in back])
    assert "".join(str(int(state)) for state in states) == expected


THOUGHT = "I see. I do HARM here.\n\nNo, I go BACK now. So I say no."


def test_a_marked_thought_by_hand():
    (row,) = rows_of(trace(THOUGHT)).rows
    assert row["completion"] == (
        "<think>\nI see. [SAFE] I do HARM here. [UNSAFE]\n\n"
        "No, I go BACK now. [RETHINK] So I say no. [SAFE]\n</think>\n\nFine."
    )
    assert row["why"] == "1 of 4 steps unsafe, taken back"


@pytest.mark.xfail(strict=True, reason="without marks a step does not say what it is")
def test_without_marks_no_pivot_is_learned():
    plain = trace(THOUGHT)
    assert len(pivot_table([plain])) == 4


@pytest.mark.parametrize(
    "thinking",
    [
        THOUGHT,
        "One line",
        "  Indented.\t \n\n\n- a list\n- of things\n",
        "日本語です。次です。",
        "Let $x = 3.14$.\n\\[x\\]\nwhere x is e.g. 2. Done!",
    ],
)
def test_marks_are_all_that_is_added(thinking):
    plain = trace(thinking)
    (row,) = rows_of(plain).rows
    without = row["completion"]
    for pivot in Pivot:
        without = without.replace(f" {pivot}", "")
    assert without == plain.completion
    n_steps = sum(bool(s.chars.of(plain.completion).strip()) for s in segment_trace(plain))
    marked = Trace(id="m", completion=row["completion"])
    assert len(pivot_table([marked])) == n_steps


def test_marked_steps_are_still_steps():
    (row,) = rows_of(trace("I see. I do that. So be it.")).rows
    marked = Trace(id="m", completion=row["completion"])
    texts = [step.chars.of(marked.completion) for step in segment_trace(marked)]
    assert texts[1:3] == ["[SAFE] I do that. ", "[SAFE] So be it. "]


def test_the_guard_reads_the_thought_up_to_and_with_each_step():
    guard = Guard()
    rows_of(trace(THOUGHT), guard=guard)
    thinking = f"\n{THOUGHT}\n"
    assert [item.part for item in guard.items] == [Part.STEP] * 4
    assert [item.prompt for item in guard.items] == ["How?"] * 4
    assert all(thinking.strip().startswith(item.text.strip()) for item in guard.items)
    assert guard.items[-1].text.strip() == THOUGHT
    assert guard.items[1].text.strip() == "I see. I do HARM here."


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (trace(THOUGHT), "kept"),
        (trace("I see. That is fine."), "kept"),
        (trace("I do HARM. I go BACK. I do HARM again. I go BACK again."), "kept"),
        (trace("I see. I do HARM here."), "not_taken_back"),
        (trace("I do HARM. I go BACK. I do HARM again."), "not_taken_back"),
        (trace(THOUGHT, answer="HARM"), "other_reason"),
        (trace("I NEVER know. I see."), "undecided"),
        (trace("I see. [SAFE] I know."), "marked_before"),
        (trace("I see.", finish_reason="length"), "cut_off"),
        (Trace(id="o", completion="<think>\nI see. I", prompt="How?"), "cut_off"),
        (Trace(id="n", completion="<think>\n\n</think>\n\nFine.", prompt="How?"), "no_thought"),
        (Trace(id="a", completion="Fine.", prompt="How?"), "no_thought"),
    ],
)
def test_what_becomes_of_a_trace(made, outcome):
    built = rows_of(made, keep=safe_answer(Guard()))
    assert {name for name, n in built.counts.items() if n} == {outcome}
    assert len(built.rows) == (outcome == "kept")


def test_what_is_decided_without_the_guard_costs_no_verdict():
    guard = Guard()
    rows_of(trace("I see.", finish_reason="length"), trace("[SAFE]", name="b"), guard=guard)
    assert not guard.items


@pytest.mark.xfail(strict=True, reason="without verdicts unsafe thoughts are learned as safe")
def test_without_verdicts_unsafe_thoughts_stay_out():
    built = mark_traces([trace("I do HARM here.")], lambda _, steps: [False] * len(steps))
    assert not built.rows


def test_pivots_are_counted():
    built = rows_of(trace(THOUGHT), trace("I do HARM.", name="b"))
    assert built.pivots == {"[SAFE]": 2, "[UNSAFE]": 1, "[RETHINK]": 1}
    assert (built.counts["kept"], built.counts["not_taken_back"]) == (1, 1)


def test_a_judge_that_leaves_a_step_out_is_an_error():
    with pytest.raises(ValueError, match="trace 't': the judge gave 1 verdicts for 2 steps"):
        mark_traces([trace("I see. I know.")], lambda *_: [False])


def test_a_mark_without_steps_changes_nothing():
    assert mark("as it is", [], []) == "as it is"


# --- words ---------------------------------------------------------------------------------------


def with_pivots(tied=True, extra=0):
    tokenizer = tiny_tokenizer()
    network = tiny_model(len(tokenizer) + extra, tie_word_embeddings=tied)
    before = [network.get_input_embeddings().weight, network.get_output_embeddings().weight]
    means = [matrix[: len(tokenizer)].detach().mean(0) for matrix in before]
    ids = add_pivots(network, tokenizer)
    return network, tokenizer, ids, means


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("extra", [0, 2, 9])
def test_new_words_start_as_the_mean(tied, extra):
    """With 9 rows more than words, as Qwen's matrices have them, nothing is resized."""
    network, tokenizer, ids, means = with_pivots(tied, extra)
    n_words = len(tiny_tokenizer())
    assert list(ids.values()) == [n_words, n_words + 1, n_words + 2]
    assert tokenizer.encode(SAFE, add_special_tokens=False) == [ids[SAFE]]

    matrices = (network.get_input_embeddings().weight, network.get_output_embeddings().weight)
    for matrix, mean in zip(matrices, means, strict=True):
        assert matrix.shape[0] == n_words + max(extra, 3)
        for number in ids.values():
            assert torch.allclose(matrix[number], mean, atol=1e-5)
    assert matrices[0] is not matrices[1]
    assert network.config.tie_word_embeddings is False


@pytest.mark.xfail(strict=True, reason="a plain resize does not start words at our mean")
def test_without_the_mean_a_word_starts_elsewhere():
    network, tokenizer = tiny_model(18), tiny_tokenizer()
    mean = network.get_input_embeddings().weight[:18].detach().mean(0)
    network.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    assert torch.allclose(network.get_input_embeddings().weight[18], mean, atol=1e-5)


def test_old_words_keep_their_logits():
    ids = torch.tensor([[5, 6, 7, 8]])
    before = tiny_model(18, tie_word_embeddings=True)(ids).logits
    after = with_pivots()[0](ids).logits
    assert torch.allclose(before, after[..., :18], atol=1e-5)


def test_words_that_are_there_stay_as_they_are():
    network, tokenizer, ids, _ = with_pivots()
    before = network.get_input_embeddings().weight.detach().clone()
    assert add_pivots(network, tokenizer) == ids
    assert torch.equal(before, network.get_input_embeddings().weight)


def test_ids_come_from_the_tokenizer():
    """Wherever the words are: here another word comes after them."""
    tokenizer = with_pivots()[1]
    tokenizer.add_tokens(["[OTHER]"])
    n_words = len(tiny_tokenizer())
    assert pivot_ids(tokenizer) == {SAFE: n_words, UNSAFE: n_words + 1, RETHINK: n_words + 2}
    assert contrast_options(tokenizer, 0.5) == {
        "trainer_class": PivotTrainer, "pivots": (n_words, n_words + 1), "contrast": 0.5
    }  # fmt: skip


def test_a_tokenizer_without_pivots_names_the_command():
    with pytest.raises(ValueError, match=r"python -m trainers\.methods\.pivots MODEL OUT"):
        pivot_ids(tiny_tokenizer())


def test_special_pivots_are_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(Pivot), special_tokens=True)
    with pytest.raises(ValueError, match="special tokens, which are left out"):
        pivot_ids(tokenizer)


# --- a reload ------------------------------------------------------------------------------------

ROWS = [
    {"prompt": "one", "completion": "<think> so [SAFE] wait [UNSAFE] hmm [RETHINK] </think> one"},
    {"prompt": "two", "completion": "<think> so [SAFE] hmm [SAFE] </think> two"},
]
LORA = (
    "--use_peft true --lora_r 4 --lora_alpha 4 --lora_dropout 0 --lora_target_modules q_proj v_proj"
)
SAVED = "--lora_modules_to_save embed_tokens lm_head --activation_checkpointing false"
SHORT = "--use_cpu true --bf16 false --max_steps 3 --learning_rate 0.1 --disable_tqdm true"


def logits_of(folder_or_network):
    network = folder_or_network
    if not isinstance(network, torch.nn.Module):
        network = AutoModelForCausalLM.from_pretrained(network)
    with torch.no_grad():
        return network(torch.tensor([[5, 18, 19, 20, 7]])).logits


@pytest.fixture
def prepared(tmp_path):
    """A tiny tied model on disk, after the command that adds pivots to it; rows."""
    tokenizer = tiny_tokenizer()
    tiny_model(len(tokenizer), tie_word_embeddings=True).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    pivots.main([str(tmp_path / "model"), str(tmp_path / "pivots")])
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return tmp_path


def lora_run(folder):
    """Training by the script, whose trained network is kept before anything is reloaded."""
    kept = []
    train = sft.train

    def keep(*args, **options):
        trainer = train(*args, **options)
        kept.append(trainer)
        return trainer

    places = {"--model_name_or_path": "pivots", "--data": "rows.jsonl", "--output_dir": "out"}
    arguments = []
    for option, name in places.items():
        arguments += [option, str(folder / name)]
    arguments += ["--contrast", "1.0", *f"{LORA} {SAVED} {SHORT}".split(), "--report_to", "none"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft, "train", keep)
        sft.main(arguments)
    (trainer,) = kept
    assert type(trainer) is PivotTrainer
    return logits_of(trainer.model.eval())


def test_a_reload_gives_the_same_logits(prepared):
    trained = lora_run(prepared)
    base = AutoModelForCausalLM.from_pretrained(prepared / "pivots")
    assert base.config.tie_word_embeddings is False
    assert not torch.allclose(logits_of(base), trained, atol=0.01)
    with quiet():
        adapter = PeftModel.from_pretrained(base, prepared / "out").eval()
    assert torch.allclose(logits_of(adapter), trained, atol=1e-4)

    # Merged, too, as vllm needs it.
    merge(prepared / "out", prepared / "merged")
    assert torch.allclose(logits_of(prepared / "merged"), trained, atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(prepared / "merged")
    assert list(pivot_ids(tokenizer).values()) == [18, 19, 20]
    assert tokenizer.decode([5, 18], skip_special_tokens=True).endswith(SAFE)


@pytest.mark.xfail(strict=True, reason="tied again, the trained head is lost")
def test_a_tied_reload_gives_other_logits(prepared):
    trained = lora_run(prepared)
    merge(prepared / "out", prepared / "merged")
    network = AutoModelForCausalLM.from_pretrained(prepared / "merged")
    network.get_output_embeddings().weight = network.get_input_embeddings().weight
    assert torch.allclose(logits_of(network), trained, atol=1e-4)


def test_the_contrast_needs_pivots(prepared):
    arguments = ["--model_name_or_path", str(prepared / "model"), "--contrast", "1.0"]
    arguments += ["--data", str(prepared / "rows.jsonl"), "--output_dir", str(prepared / "o")]
    with pytest.raises(ValueError, match="are no words of its vocabulary"):
        sft.main([*arguments, *SHORT.split(), "--activation_checkpointing", "false"])


def test_the_recipe_shows_what_it_would_train(prepared, capsys):
    recipe = ROOT / "trainers" / "configs" / "sft_r2d.yaml"
    arguments = ["--model_name_or_path", str(prepared / "pivots")]
    arguments += ["--data", str(prepared / "rows.jsonl"), "--output_dir", str(prepared / "o")]
    sft.main(["--config", str(recipe), *arguments, "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "2 rows" in printed
    assert "[[<think> so [SAFE] wait [UNSAFE] hmm [RETHINK] </think> one<eos>]]" in printed
    assert "LoRA: " in printed
    assert not (prepared / "o").exists()


def test_the_command_that_adds_pivots_overwrites_nothing(prepared):
    with pytest.raises(SystemExit, match="exists already"):
        pivots.main([str(prepared / "model"), str(prepared / "pivots")])


# --- margins -------------------------------------------------------------------------------------


def test_margins_by_hand():
    """A network whose logits are the same everywhere: SAFE 2.0, UNSAFE .5."""
    network, tokenizer, ids, _ = with_pivots()

    class Same(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, **_):
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            logits[..., ids[SAFE]], logits[..., ids[UNSAFE]] = 2.0, 0.5
            return type("Output", (), {"logits": logits})

    margins = pivot_margins(Same(), tokenizer, ROWS)
    assert margins["row"].tolist() == [0, 0, 1, 1]
    assert margins["pivot"].tolist() == [SAFE, UNSAFE, SAFE, SAFE]
    assert margins["margin"].tolist() == [1.5, -1.5, 1.5, 1.5]
    assert pivot_margins(network, tokenizer, []).empty


def test_a_margin_is_read_before_its_pivot():
    network, tokenizer, ids, _ = with_pivots()
    margin = pivot_margins(network, tokenizer, ROWS[1:])["margin"].iloc[0]
    row = sft.prepare(tokenizer, ROWS[1:])[0]
    before = row["prompt"] + "<think> so"
    logits = network(torch.tensor([tokenizer.encode(before, add_special_tokens=False)])).logits
    expected = logits[0, -1, ids[SAFE]] - logits[0, -1, ids[UNSAFE]]
    assert margin == pytest.approx(expected.item(), abs=1e-4)


# --- through a model -----------------------------------------------------------------------------


def test_rows_from_samples_of_a_model(tmp_path):
    tokenizer = tiny_tokenizer()
    trained_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = cotlens.load_model(tmp_path)
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    built = build(
        model,
        lambda _, steps: [False] * len(steps),
        ["one", messages],
        n=2,
        max_new_tokens=8,
    )
    assert built.n_sampled == 4
    assert sum(built.counts.values()) == 4


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The arguments of the command, with scripted traces and a guard in place of models."""
    made = [trace(THOUGHT, name=f"t{number}") for number in range(6)]
    monkeypatch.setattr(r2d, "sample", lambda _, asked, **__: made[: len(asked)])
    monkeypatch.setattr(cotlens, "load_guard", lambda _: Guard(), raising=False)
    monkeypatch.setattr(cotlens, "load_model", lambda _: None, raising=False)
    student = type("Engine", (), {"tokenizer": tiny_tokenizer()})
    monkeypatch.setattr(r2d, "as_engine", lambda _: student)
    rows = [{"id": str(number), "prompt": f"one {number}"} for number in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["--model", "m", "--guard", "g", "--prompts", str(tmp_path / "prompts.jsonl")]


def test_the_command_writes_rows_that_the_trainer_takes(command, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    r2d.main([*command, "-o", str(out)])
    assert f"{out}: 6 rows" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(sft.prepare(tiny_tokenizer(), rows)) == 6
    with pytest.raises(SystemExit, match="exists already"):
        r2d.main([*command, "-o", str(out)])


def test_a_dry_run_shows_and_writes_nothing(command, tmp_path, capsys):
    r2d.main([*command, "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "4 rows" in printed
    assert "HARM here. [UNSAFE]\n\nNo" in printed
    assert "[[<think>" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_a_command_without_a_file_says_so(command, capsys):
    with pytest.raises(SystemExit, match="2"):
        r2d.main(command)
    assert "name the file of rows" in capsys.readouterr().err


def test_plain_sft_is_the_twin_without_the_contrast(tmp_path):
    """Both train; which margin is larger is reported by the arms, not asserted."""
    for weight in (1.0, 0.0):
        network, tokenizer, _, _ = with_pivots()
        args = settings(SFTConfig, tmp_path / str(weight))
        sft.train(network, tokenizer, ROWS, args, **contrast_options(tokenizer, weight))
        assert pivot_margins(network, tokenizer, ROWS)["margin"].notna().all()
