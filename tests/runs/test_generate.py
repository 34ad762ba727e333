"""Prompts to traces: only the arguments decide the texts, not the batch or the checkpoint."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import TEMPLATE, tiny_model, tiny_tokenizer

from cotlens import Run, TraceError, analyze, generate, read_traces, score, split_trace
from cotlens.cli import main
from cotlens.models.load import wrap_model
from cotlens.models.local import LocalEngine
from cotlens.runs import generate as generate_module
from cotlens.runs.generate import generation_info
from cotlens.text.split import OpenedBy

OPENING = TEMPLATE.replace("<|assistant|> {% endif %}", "<|assistant|> <think> {% endif %}")
ROWS = [
    {"id": "a", "prompt": "one", "domain": "math", "gold": 2, "level": 3},
    {"id": "b", "prompt": "one two three four five", "domain": "safety", "split": "seen"},
    {"id": "c", "prompt": "wait so three"},
]
SMALL = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "n": 2}
GREEDY = {"max_new_tokens": 12, "temperature": 0, "n": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


def make_model(template=TEMPLATE, **options):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return wrap_model(tiny_model(len(tokenizer), **options), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def prompts(tmp_path):
    return write(tmp_path / "prompts.jsonl", ROWS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tokens(folder):
    """The token ids of each trace, by its id."""
    return {trace.id: trace.token_ids for trace in read_traces(folder)}


def test_greedy_is_the_argmax_of_every_step(model, prompts, tmp_path):
    generate(prompts, model, tmp_path / "out", **GREEDY)
    end = model.tokenizer.eos_token_id
    for trace in read_traces(tmp_path / "out"):
        prompt_ids = list(trace.prompt_token_ids)
        encoded = model.tokenizer(trace.prompt, add_special_tokens=False)
        assert prompt_ids == encoded["input_ids"]

        ids = []
        while len(ids) < 12 and ids[-1:] != [end]:
            with torch.inference_mode():
                output = model.network(torch.tensor([prompt_ids + ids]), use_cache=False)
            ids.append(int(output.logits[0, -1].argmax()))
        assert trace.token_ids == tuple(ids)
        assert trace.finish_reason == ("stop" if ids[-1] == end else "length")


@pytest.mark.parametrize("options", [GREEDY, SMALL, SMALL | {"top_p": 0.8, "top_k": 5}])
def test_the_batch_changes_nothing(model, prompts, tmp_path, options):
    """All six at once, each alone, and in another order with others between."""
    generate(prompts, model, tmp_path / "whole", **options)
    generate(prompts, model, tmp_path / "alone", batch_tokens=1, **options)
    others = [{"id": "z", "prompt": "five"}, *ROWS[::-1]]
    generate(write(tmp_path / "more.jsonl", others), model, tmp_path / "more", **options)
    whole = tokens(tmp_path / "whole")
    assert whole == tokens(tmp_path / "alone")
    assert whole.items() <= tokens(tmp_path / "more").items()
    if options["n"] > 1:
        assert len(set(whole.values())) > 3  # samples differ


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (2.5, 0, 1.0), (2.5, 3, 1.0), (2.5, 0, 0.7)]
)
def test_words_are_drawn_with_their_probability(model, tmp_path, temperature, top_k, top_p):
    """The first token of 1,500 samples against softmax(logits / temperature), by chi-square.

    The softmax is cut by top_k or top_p.
    """
    path = write(tmp_path / "p.jsonl", [{"prompt": "one wait"}])
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    generate(path, model, tmp_path / "out", n=1500, max_new_tokens=1, **sampling)
    traces = list(read_traces(tmp_path / "out"))
    with torch.inference_mode():
        output = model.network(torch.tensor([traces[0].prompt_token_ids]))
    logits = output.logits[0, -1].double()
    p = (logits / temperature).softmax(-1).numpy()

    # What top_k or top_p keeps, with its probabilities scaled to 1.
    order = np.argsort(-p)
    n_kept = top_k
    if not top_k:
        n_kept = 1 + int(np.searchsorted(p[order].cumsum(), top_p - 1e-9))
    kept = order[:n_kept]
    q = np.zeros_like(p)
    q[kept] = p[kept] / p[kept].sum()

    counts = np.bincount([trace.token_ids[0] for trace in traces], minlength=len(p))
    assert counts[q == 0].sum() == 0

    # Words that are expected fewer than five times count as one.
    expected = 1500 * q
    often = expected >= 5
    observed = [*counts[often]]
    wanted = [*expected[often]]
    if expected[~often].sum() > 0:
        observed.append(counts[~often].sum())
        wanted.append(expected[~often].sum())
    assert len(observed) > 1
    assert chisquare(observed, wanted).pvalue > 0.001


def test_a_temperature_near_zero_and_one_word_to_choose_are_greedy(model, prompts, tmp_path):
    generate(prompts, model, tmp_path / "greedy", **GREEDY)
    generate(prompts, model, tmp_path / "cold", **GREEDY | {"temperature": 1e-4})
    generate(prompts, model, tmp_path / "single", **GREEDY | {"temperature": 1.0, "top_k": 1})
    assert tokens(tmp_path / "greedy") == tokens(tmp_path / "cold") == tokens(tmp_path / "single")


@pytest.mark.parametrize("options", [GREEDY, SMALL])
def test_the_checkpoints_own_settings_change_nothing(prompts, tmp_path, options):
    """Settings of a generation_config that would change every text; they are there afterwards."""
    own = {
        "repetition_penalty": 5.0, "top_k": 1, "temperature": 0.1, "do_sample": True,
        "min_new_tokens": 9, "suppress_tokens": [6, 7], "no_repeat_ngram_size": 1, "num_beams": 2,
        "max_length": 3,
    }  # fmt: skip
    plain = make_model()
    other = make_model()
    other.network.generation_config.update(**own)
    generate(prompts, plain, tmp_path / "plain", **options)
    generate(prompts, other, tmp_path / "other", **options)
    assert tokens(tmp_path / "plain") == tokens(tmp_path / "other")
    assert other.network.generation_config.repetition_penalty == 5.0


def test_end_tokens_of_tokenizer_and_checkpoint_both_count(prompts, tmp_path):
    """The end token closes the ids and is not part of the text; padding after it is dropped."""
    model = make_model()
    wait = model.tokenizer.convert_tokens_to_ids("wait")
    model.network.generation_config.eos_token_id = [wait]
    generate(prompts, model, tmp_path / "out", **SMALL | {"n": 20})
    info = generation_info(tmp_path / "out")
    ends = {wait, model.tokenizer.eos_token_id}
    traces = list(read_traces(tmp_path / "out"))
    for trace in traces:
        assert not ends & set(trace.token_ids[:-1])
        assert trace.finish_reason == ("stop" if trace.token_ids[-1] in ends else "length")
        assert len(trace.token_starts) == len(trace.token_ids)
        if trace.finish_reason == "stop":
            assert trace.completion == model.tokenizer.decode(trace.token_ids[:-1])
            assert trace.token_starts[-1] == len(trace.completion)

    assert {trace.token_ids[-1] for trace in traces if trace.finish_reason == "stop"} == ends
    assert info["n_cut"] == sum(trace.finish_reason == "length" for trace in traces) > 0
    assert info["n_tokens"] == sum(len(trace.token_ids) for trace in traces)
    run = score(analyze(tmp_path / "out", tmp_path / "run"), model)
    assert run.score_info("tiny")["n_inexact"] == 0


def test_a_batch_that_does_not_fit_goes_in_halves(model, prompts, tmp_path, monkeypatch):
    generate(prompts, model, tmp_path / "whole", **SMALL)
    write_batch = LocalEngine._write_batch
    sizes = []

    def short_of_memory(engine, sampling, batch):
        sizes.append(len(batch))
        if len(batch) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return write_batch(engine, sampling, batch)

    monkeypatch.setattr(LocalEngine, "_write_batch", short_of_memory)
    limit = 2
    generate(prompts, model, tmp_path / "halves", **SMALL)
    assert sizes[:2] == [6, 3]
    assert tokens(tmp_path / "whole") == tokens(tmp_path / "halves")
    limit = 0
    with pytest.raises(TraceError, match="memory does not hold"):
        generate(prompts, model, tmp_path / "none", **SMALL)


def test_a_thought_that_the_template_opened_is_seen(prompts, tmp_path):
    generate(prompts, make_model(OPENING), tmp_path / "out", **SMALL)
    for trace in read_traces(tmp_path / "out"):
        assert trace.prompt.endswith("<|assistant|> <think> ")
        assert split_trace(trace).opened_by is OpenedBy.PROMPT


def test_a_prefill_begins_the_completion(model, prompts, tmp_path):
    """Its ids are the prompt's last; those of the trace are the model's own."""
    generate(prompts, model, tmp_path / "out", prefill="<think> wait ", **SMALL)
    trace = next(read_traces(tmp_path / "out"))
    assert trace.prompt == "<|user|> one <|assistant|> "
    assert trace.completion.startswith("<think> wait ")
    assert trace.prompt_token_ids[-1] == model.tokenizer.convert_tokens_to_ids("wait")
    assert trace.token_starts[0] == len("<think> wait ")
    assert split_trace(trace).opened_by is OpenedBy.TEXT


def test_messages_system_and_template_arguments(tmp_path):
    model = make_model("{% if loud %}hmm {% endif %}" + TEMPLATE)
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "so"},
    ]
    rows = [{"id": "a", "prompt": messages, "system": "the"}, {"id": "b", "prompt": "one"}]
    path = write(tmp_path / "p.jsonl", rows)
    generate(path, model, tmp_path / "out", template_args={"loud": True}, **GREEDY)
    first, second = read_traces(tmp_path / "out")
    rendered = "hmm <|system|> the <|user|> one <|assistant|> two <|user|> so <|assistant|> "
    assert first.prompt == rendered
    assert first.meta["prompt_messages"] == [{"role": "system", "content": "the"}, *messages]
    assert (first.meta["request"], second.meta["request"]) == ("so", "one")
    with pytest.raises(TraceError, match="no variable laud"):
        generate(path, model, tmp_path / "other", template_args={"laud": True}, **GREEDY)


def test_without_a_template_a_prompt_is_one_text(tmp_path):
    model = make_model(None)
    path = write(tmp_path / "p.jsonl", [{"prompt": "one two"}])
    generate(path, model, tmp_path / "out", **GREEDY)
    assert next(read_traces(tmp_path / "out")).prompt == "one two"

    path = write(tmp_path / "q.jsonl", [{"prompt": "one", "system": "two"}])
    with pytest.raises(TraceError, match="no chat template"):
        generate(path, model, tmp_path / "q", **GREEDY)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"prompt"', "not valid JSON"),
        ('{"question": "x"}', "no prompt; its fields are question"),
        ('{"prompt": null}', "no prompt"),
        ('{"prompt": " \\n"}', "prompt is empty"),
        ('{"prompt": []}', "prompt is empty"),
        ('{"prompt": 3}', "must be text or a list of messages, got int"),
        ('{"prompt": ["x"]}', "must be text or a list of messages"),
        ('{"prompt": [{"role": "user"}]}', "needs a role and a content"),
        ('{"prompt": [{"role": "user", "content": ""}]}', "prompt is empty"),
        ('{"prompt": [{"role": "assistant", "content": "x"}]}', "--prefill"),
        (
            '{"prompt": [{"role": "system", "content": "x"}, {"role": "user", "content": "x"}], '
            '"system": "y"}',
            "another",
        ),
        ('{"prompt": "x", "id": "first"}', "'first' occurs twice"),
        ('{"prompt": "one"}', "occurs twice"),
        ('{"prompt": "x", "domain": ["y"]}', "domain must be text"),
        ('{"prompt": "\\ud800"}', "lone surrogate"),
    ],
)
def test_bad_rows_are_named(model, tmp_path, line, fault):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two", "id": "first"}\n' + line + "\n")
    with pytest.raises(TraceError, match=fault) as error:
        generate(path, model, tmp_path / "out", **SMALL)
    assert str(error.value).startswith(f"{path}:3: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"n": 0}, "n must be 1 or more"),
        ({"temperature": -1}, "temperature from 0"),
        ({"temperature": 0}, "would be the same"),
        ({"top_p": 0}, "top_p above 0"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1"),
        (
            {"max_new_tokens": 60},
            r"prompts.jsonl:2: the prompt's 7 tokens and the longest completion are 3 more",
        ),
        ({"engine": "llama"}, "expected the engine"),
        ({"engine": "vllm"}, "loads a model by its name"),
    ],
)
def test_bad_settings_are_refused(model, prompts, tmp_path, options, fault):
    with pytest.raises(TraceError, match=fault):
        generate(prompts, model, tmp_path / "out", **SMALL | options)


def test_an_engine_that_is_not_installed_is_named(prompts, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(TraceError, match="install vllm"):
        generate(prompts, "some/model", tmp_path / "out", engine="vllm", **SMALL)


def test_no_file_is_nothing_to_generate_from(model, tmp_path):
    with pytest.raises(TraceError, match="nothing to generate from"):
        generate([], model, tmp_path / "out", **SMALL)


def test_a_killed_job_goes_on_to_the_same_bytes(model, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr(generate_module, "SHARD_TRACES", {"transformers": 2})
    whole = generation_info(generate(prompts, model, tmp_path / "whole", **SMALL))
    done = []

    def kill(n):
        done.append(n)
        if len(done) == 3:
            raise KeyboardInterrupt

    part = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        generate(prompts, model, part, progress=kill, **SMALL)
    (part / ".part-00001.parquet.1.partial").write_bytes(b"x")
    assert not generation_info(part)["complete"]
    with pytest.raises(TraceError, match="not all of its traces are made yet"):
        list(read_traces(part))
    assert len(list(read_traces(part / "part-00000.parquet"))) == 2

    # The first shard is not made again, and nothing of the kill is left.
    first = (part / "part-00000.parquet").stat()
    done.clear()
    generate(prompts, model, part, progress=done.append, **SMALL)
    assert generation_info(part) == whole
    assert sum(done) == 6
    assert (part / "part-00000.parquet").stat().st_mtime_ns == first.st_mtime_ns
    names = ["run.json", *(f"part-0000{i}.parquet" for i in range(3))]
    assert sorted(path.name for path in part.iterdir()) == sorted([".lock", *names])
    for name in names:
        assert (part / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"temperature": 0.5},
        {"n": 3},
        {"method": "sft"},
        {"prefill": "so "},
        {"batch_tokens": 99},
        "model",
        "prompts",
        "json",
    ],
)
def test_other_settings_on_the_same_folder_are_refused(model, prompts, tmp_path, change):
    generate(prompts, model, tmp_path / "out", **SMALL)
    before = tokens(tmp_path / "out")
    if change == "model":
        model = make_model(seed=1)
    elif change == "prompts":
        write(prompts, ROWS[:2])
    elif change == "json":
        (tmp_path / "out" / "run.json").write_text("{")
    options = SMALL | (change if isinstance(change, dict) else {})
    with pytest.raises(TraceError, match="holds shards made with other"):
        generate(prompts, model, tmp_path / "out", **options)
    assert tokens(tmp_path / "out") == before


def test_a_folder_without_its_run_json_is_named(model, prompts, tmp_path):
    """Sampled traces are no run: they become one, and keep what made them apart from it."""
    with pytest.raises(TraceError, match="not a folder of sampled traces"):
        generation_info(tmp_path)
    folder = generate(prompts, model, tmp_path / "out", **SMALL)
    assert folder == tmp_path / "out"
    assert generation_info(str(folder))["n_traces"] == 6
    with pytest.raises(TraceError, match="not a cotlens run"):
        _ = Run(folder).info
    assert analyze(folder, tmp_path / "run").info["n_traces"] == 6
    (folder / "run.json").write_text("{")
    with pytest.raises(TraceError, match=r"run\.json cannot be read"):
        generation_info(folder)


def test_seeds_make_other_samples(model, prompts, tmp_path):
    generate(prompts, model, tmp_path / "0", **SMALL)
    generate(prompts, model, tmp_path / "1", seed=1, **SMALL)
    assert tokens(tmp_path / "0") != tokens(tmp_path / "1")


def test_what_the_rows_say_reaches_the_trace_table(model, prompts, tmp_path):
    folder = generate(prompts, model, tmp_path / "out", method="sft", **SMALL)
    run = analyze(tmp_path / "out", tmp_path / "run")
    table = run.trace_table()
    assert table["trace_id"].tolist() == ["a/0", "a/1", "b/0", "b/1", "c/0", "c/1"]
    assert table["prompt_id"].tolist() == list("aabbcc")
    assert table["domain"].tolist() == ["math"] * 2 + ["safety"] * 2 + [""] * 2
    assert table["split"].tolist() == [""] * 2 + ["seen"] * 2 + [""] * 2
    assert run.trace_table(["gold"])["gold"].tolist() == ["2"] * 2 + [""] * 4
    assert table["sample"].tolist() == [0, 1] * 3
    assert set(zip(table["model"], table["method"], strict=True)) == {("tiny", "sft")}
    trace = next(run.traces())
    assert trace.meta["level"] == 3
    sampling = {"seed": 0, "top_k": 0, "banned_ids": [], **SMALL}
    assert trace.meta["sampling"] == generation_info(folder)["sampling"] == sampling


def test_token_ids_score_as_their_own_text(model, prompts, tmp_path):
    """Scores of the model that wrote them: the greedy text has rank 1 throughout."""
    generate(prompts, model, tmp_path / "out", **GREEDY)
    info = score(analyze(tmp_path / "out", tmp_path / "run"), model).score_info("tiny")
    assert (info["n_retokenized"], info["n_inexact"], info["n_unscored"]) == (0, 0, 0)
    ranks = np.concatenate(Run(tmp_path / "run").score_table()["rank"].tolist())
    assert (ranks == 1).all()


def test_from_checkpoint_to_scores(tmp_path, prompts, monkeypatch, capsys):
    """The commands, on a checkpoint on disk whose generation_config asks for other sampling."""
    model = make_model(OPENING)
    model.network.generation_config.update(repetition_penalty=9.0, do_sample=True, top_k=1)
    model.network.save_pretrained(tmp_path / "sft")
    model.tokenizer.save_pretrained(tmp_path / "sft")

    def cotlens(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["cotlens", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == code
        return capsys.readouterr()

    command = ["generate", prompts, "--model", tmp_path / "sft", "-o", tmp_path / "traces"]
    command += ["--max-new-tokens", 12, "--device", "cpu"]
    command += ["--temperature", 1, "--top-p", 1, "--n", 2]
    done = cotlens(*command, "--method", "sft")
    assert "6 traces" in done.out
    assert "6/6" in done.err

    info = generation_info(tmp_path / "traces")
    assert info["model"]["name"] == "sft"
    assert info["engine"] == "transformers"
    assert info["complete"] is True
    assert str(tmp_path) not in json.dumps(info)
    generate(prompts, model, tmp_path / "memory", method="sft", **SMALL)
    assert tokens(tmp_path / "memory") == tokens(tmp_path / "traces")

    cotlens("analyze", tmp_path / "traces", "-o", tmp_path / "run")
    cotlens("score", tmp_path / "run", "--model", tmp_path / "sft", "--device", "cpu")
    assert len(Run(tmp_path / "run").score_table()) == 6

    assert "other method" in cotlens(*command, code=1).err
    assert "give --n 1" in cotlens(*command, "--temperature", 0, code=2).err
    assert "not valid JSON" in cotlens(*command, "--template-args", "{", code=2).err
    assert "cannot be loaded" in cotlens(*command, "--model", tmp_path / "run", code=1).err


def test_the_call_of_vllm(model, prompts, tmp_path, monkeypatch):
    """Only our own call: a stand-in takes vllm's place. Whether vllm agrees is not tested here."""
    model.network.save_pretrained(tmp_path / "sft")
    model.tokenizer.save_pretrained(tmp_path / "sft")
    asked = []

    class FakeLLM:
        def __init__(self, model, **options):
            asked.append(options)

        def generate(self, prompts, sampling_params, *, use_tqdm):
            asked.append(sampling_params)
            for prompt, params in zip(prompts, sampling_params, strict=True):
                outputs = []
                for i in range(params.n):
                    ids = [*prompt["prompt_token_ids"], 10 + i, 2]
                    outputs.append(SimpleNamespace(index=i, token_ids=ids))
                yield SimpleNamespace(outputs=outputs)

    monkeypatch.setitem(
        sys.modules, "vllm", SimpleNamespace(LLM=FakeLLM, SamplingParams=SimpleNamespace)
    )
    monkeypatch.setattr("cotlens.models.vllm.version", lambda _: "0")
    generate(prompts, str(tmp_path / "sft"), tmp_path / "out", engine="vllm", **SMALL)
    info = generation_info(tmp_path / "out")
    options, params = asked
    assert options["max_model_len"] == 7 + 12
    assert options["load_format"] == "safetensors"
    assert options["trust_remote_code"] is False
    assert options["generation_config"] == "vllm"
    assert [one.n for one in params] == [2, 2, 2]
    assert len({one.seed for one in params}) == 3
    assert params[0].stop_token_ids == [2]
    assert (info["engine"], info["versions"]["vllm"], info["n_traces"]) == ("vllm", "0", 6)
    assert len(info["model"]["fingerprint"]) == 16
    for trace in read_traces(tmp_path / "out"):
        assert trace.token_ids == (*trace.prompt_token_ids, 10 + trace.sample, 2)
        assert trace.finish_reason == "stop"
    with pytest.raises(TraceError, match="loads a model by its name"):
        generate(prompts, model, tmp_path / "out", engine="vllm", **SMALL)
    (tmp_path / "sft" / "adapter_config.json").write_text("{}")
    with pytest.raises(TraceError, match=r"first python -m trainers\.merge"):
        generate(prompts, str(tmp_path / "sft"), tmp_path / "out", engine="vllm", **SMALL)


def test_a_prompt_may_have_a_beginning_of_its_own(model, tmp_path):
    """The row's wins over that of all, its trace keeps it, and its tokens are no drawn ones."""
    rows = [
        {"id": "a", "prompt": "one", "prefill": "<think> so"},
        {"id": "b", "prompt": "one"},
        {"id": "c", "prompt": "one", "prefill": ""},
    ]
    prompts = write(tmp_path / "rows.jsonl", rows)
    folder = generate(prompts, model, tmp_path / "out", prefill="<think> hmm", **GREEDY)

    own, common, none = sorted(read_traces(folder), key=lambda trace: trace.id)
    assert own.completion.startswith("<think> so")
    assert own.meta["prefill"] == "<think> so"
    assert own.token_starts[0] == len("<think> so")
    assert common.completion.startswith("<think> hmm")
    assert none.token_starts[0] == 0


def test_a_beginning_must_be_text(model, tmp_path):
    prompts = write(tmp_path / "rows.jsonl", [{"id": "a", "prompt": "one", "prefill": 3}])
    with pytest.raises(TraceError, match=r"rows\.jsonl:1: prefill must be text, got int"):
        generate(prompts, model, tmp_path / "out", **GREEDY)
