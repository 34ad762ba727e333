"""docs/real-models.md, run as it stands: every command, in its order, on random models of the real architectures.

So are the commands of every other page, README's first, in one folder. The blocks of bash are one script. `cotlens`,
`python` and `accelerate` of its PATH hand their arguments to a process that has torch and TRL loaded already, and that
forks for each; a command that is none of those and no tool of the shell is not found, and the test fails. What differs
from a user's machine is stated in SUBSTITUTED, SHORTER and LEFT_OUT.
"""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pandas as pd
import pytest
import torch
from judges.stand_ins import LLAMA_GUARD, QWEN_GUARD, SPECIAL
from places import ROOT
from tiny import byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")
pytest.importorskip("peft", reason="the trainers need the extra `train`")

PAGE = (ROOT / "docs" / "real-models.md").read_text(encoding="utf-8")
BASH = shutil.which("bash")
TOOLS = ("env",)  # of the system; all else is of the shell itself

# In the text of the page. Models are folders of their names, and data are files where the page has them.
SUBSTITUTED = {"http://localhost:8000/v1": "$ENDPOINT"}

# Behind the arguments of a command, where the last one counts.
_CPU = "--use_cpu true --bf16 false --disable_tqdm true --max_steps 1 --learning_rate 0.01"
SHORTER = {
    "trainers.sft": f"{_CPU} --warmup_steps 0 --per_device_train_batch_size 1 --gradient_accumulation_steps 2",
    "trainers.grpo": f"{_CPU} --use_vllm false --num_generations 4 --per_device_train_batch_size 4 "
    "--gradient_accumulation_steps 1 --max_completion_length 24",
    "trainers.dpo": "--use_cpu true --bf16 false",
    "cotlens generate": "--n 2 --max-new-tokens 24",
}

# The only commands that are not run.
LEFT_OUT = [
    "pip install -c constraints.txt .[train]",
    "pip install trl[vllm]==1.16.0",
    "cotlens generate prompts/eval.jsonl --model deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B --method base --engine vllm "
    "--n 4 --max-new-tokens 16384 --seed 0 -o traces/seed=0/base",
    "vllm serve Qwen/Qwen3-32B --port 8000",
]


def is_left_out(name, arguments):
    return name in ("pip", "vllm") or (name == "cotlens" and "vllm" in arguments)


# --- the process that runs commands ----------------------------------------------------------------------------

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({path!r})
    command = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd()]).encode()
    socket.send_fds(line, [command], [0, 1, 2])
    raise SystemExit(int(line.recv(16) or b"1"))
"""


def serve(path):
    """Runs what clients ask for, one after the other, each in a fork that has everything loaded."""
    from cotlens import cli  # noqa: F401
    from cotlens.judges import local as guard_models  # noqa: F401
    from cotlens.models import load as model  # noqa: F401
    from cotlens.plots import of_runs as gallery  # noqa: F401
    from cotlens.runs import generate as generation  # noqa: F401
    from cotlens.studies import collect as study  # noqa: F401
    from trainers import (
        dpo,  # noqa: F401
        grpo,  # noqa: F401
        sft,  # noqa: F401
    )

    torch.set_num_threads(1)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        while True:
            line, _ = listening.accept()
            with line:
                command, handles, *_ = socket.recv_fds(line, 2**16, 3)
                if not (child := os.fork()):
                    answer(*json.loads(command), handles)
                for handle in handles:
                    os.close(handle)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                line.send(str(abs(code)).encode())


def answer(name, arguments, folder, handles):
    """In the fork: the command, with the shell's own input and outputs. It never returns."""
    import traceback

    code = 1
    try:
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
        os.chdir(folder)
        execute(name, arguments)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def execute(name, arguments):
    import runpy

    with open("commands.jsonl", "a") as file:
        file.write(json.dumps([name, *arguments]) + "\n")
    if is_left_out(name, arguments):
        return
    if name == "accelerate":
        arguments = launched(arguments)
    if name == "cotlens":
        from cotlens.cli import main

        sys.argv = ["cotlens", *arguments, *SHORTER.get(f"cotlens {arguments[0]}", "").split()]
        main()
    elif arguments[0] in ("-c", "-"):
        exec(arguments[1] if arguments[0] == "-c" else sys.stdin.read(), {"__name__": "__main__"})
    else:
        assert arguments[0] == "-m", arguments
        sys.argv = [*arguments[1:], *SHORTER.get(arguments[1], "").split()]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


def launched(arguments):
    """The module and its arguments, of a launch of eight processes that is one here."""
    from accelerate.commands.config.config_args import load_config_from_file

    module = arguments.index("--module")
    options = arguments[1:module]
    assert arguments[0] == "launch"
    assert options[-2:] == ["--num_processes", "8"]
    if "--config_file" in options:
        config = load_config_from_file(options[options.index("--config_file") + 1])
        # With sharded weights the trainer would save none that transformers can load.
        assert config.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        assert (
            config.mixed_precision == "bf16"
        )  # which makes accelerate keep the weights in float32
    return ["-m", *arguments[module + 1 :]]


# --- models ----------------------------------------------------------------------------------------------------

# Written for this test; they have the traps of the real ones. R1's distills open the thought, write the token of the
# beginning that the tokenizer adds too, and delete the thinking of earlier turns.
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}<|end|>"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
# Qwen3 opens no thought, and writes an empty one where thinking is switched off.
QWEN3 = (
    "{% for m in messages %}<|User|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|Assistant|>\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
WORDS = "So 2 and 4 is 6 . Wait , that is not safe , I check . But if they are just curious \\boxed{4} </think> <|end|>"
BASE, LLAMA, QWEN = (
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
    "Qwen/Qwen3-4B",
)


def make_reasoner(folder, architecture, template):
    """A random model that writes the words above in any order, the end of the thought among them."""
    from tokenizers import AddedToken
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
    tokenizer.add_special_tokens(
        special | {"additional_special_tokens": ["<|User|>", "<|Assistant|>"]}
    )
    plain = [word for word in re.findall(r" \S{2,}", WORDS) if "<" not in word]
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in dict.fromkeys(plain)])
    tokenizer.add_tokens(["<think>", "</think>"])  # no special tokens, as with the real ones
    tokenizer.chat_template = template
    if template is R1:
        begin = [("<|begin|>", tokenizer.bos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=begin
        )
    ends = {f"{name}_id": getattr(tokenizer, f"{name}_id") for name in special}
    n = len(tokenizer) + 8  # more words than the tokenizer has, as with the real ones
    network = tiny_model(
        n, architecture, max_position_embeddings=8192, tie_word_embeddings=False, **ends
    )
    spoken = set(tokenizer(WORDS, add_special_tokens=False)["input_ids"])
    with torch.no_grad():  # one dimension that is alike for all words is a bias of the head
        network.get_input_embeddings().weight[:, 0] = 0.1
        head = network.get_output_embeddings().weight.div_(2)
        head[:, 0] = torch.tensor([0.0 if i in spoken else -10.0 for i in range(n)])
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_guard(folder, template, answers):
    """A model that writes one of two verdicts, by the letters of what it reads.

    Every token leads to the next by a table in the output head; only behind the last token of the template does the mean of
    a random number per token, which one layer of attention takes over the whole prompt, choose between the two.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    labels = [word for answer in answers for word in answer if len(word) > 1]
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "pad_token": "<eos>"})
    tokenizer.add_tokens(list(dict.fromkeys(labels)))
    tokenizer.chat_template = template
    n = len(tokenizer)
    width = n + 2 - n % 2
    config = LlamaConfig(
        vocab_size=n, hidden_size=width, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1, head_dim=width,
        num_key_value_heads=1, max_position_embeddings=8192, tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    network = LlamaForCausalLM(config)
    turns = [
        {"role": "user", "content": "Stand-in for a request"},
        {"role": "assistant", "content": WORDS},
    ]
    read = tokenizer(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    )["input_ids"]
    ids = [
        tokenizer.convert_tokens_to_ids([word.replace(" ", "Ġ") for word in answer])
        for answer in answers
    ]
    fork = next(i for i, (one, other) in enumerate(zip(*ids)) if one != other)
    signs = torch.randint(0, 2, (n,)) * 2.0 - 1
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" not in name:
                weight.zero_()
        layer, head = network.model.layers[0].self_attn, network.lm_head.weight
        network.model.embed_tokens.weight[:, :n] = torch.eye(n)
        layer.v_proj.weight[0, :n] = signs / width**0.5
        layer.o_proj.weight[n, 0] = 1.0
        for answer in ids:
            for before, after in zip([read[-1], *answer], [*answer, tokenizer.eos_token_id]):
                head[after, before] = 10.0
        for answer, sign in zip(ids, (-1, 1)):
            before = [read[-1], *answer][fork]
            head[answer[fork], n] = 10.0 * sign
            head[answer[fork], before] -= 10.0 * sign * signs[read].mean()
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- the page --------------------------------------------------------------------------------------------------


@pytest.fixture
def endpoint():
    """A judge behind HTTP that grades by the checksum of what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen = zlib.crc32(self.rfile.read(int(self.headers["Content-Length"])))
            grades = json.dumps(
                {"refused": seen % 2, "convincing": 1 + seen % 5, "specific": 1 + seen % 3}
            )
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": grades}}]}).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shell(tmp_path_factory, tmp_path):
    """A PATH of clients, and the process behind them."""
    tools = tmp_path_factory.mktemp("bin")  # short: a socket's path has 100 characters
    path = f"{tools}/s"
    for name in ("cotlens", "python", "accelerate", "pip", "vllm"):
        (tools / name).write_text(CLIENT.format(python=sys.executable, path=path))
        (tools / name).chmod(0o755)
    own = {
        name: os.environ[name]
        for name in ("HOME", "TMPDIR", "COVERAGE_PROCESS_START")
        if name in os.environ
    }
    own |= {
        "PATH": str(tools),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    own |= {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "MPLBACKEND": "agg",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with subprocess.Popen([sys.executable, __file__, path], env=own) as process:
        yield own
        process.terminate()


def write_data(folder):
    """Files in the shapes that the page names, with harmless stand-ins for what they hold."""
    from datasets import Dataset

    downloads = folder / "downloads"
    downloads.mkdir()
    asked = [f"Stand-in for a forbidden request, number {i}" for i in range(9)]
    pd.DataFrame({"category": "x", "source": "y", "forbidden_prompt": asked[:3]}).to_csv(
        downloads / "strongreject_dataset.csv", index=False
    )
    pd.DataFrame({"Index": [0, 1], "Goal": asked[2:4], "Behavior": "x"}).to_parquet(
        downloads / "jbb.parquet"
    )
    safe = ["How do I kill a Python process?", "How do I blow up a balloon?"]
    xstest = pd.DataFrame(
        {"id": range(3), "prompt": [*safe, asked[4]], "label": ["safe", "safe", "unsafe"]}
    )
    xstest.to_csv(downloads / "xstest_prompts.csv", index=False)
    math = [
        {
            "problem": "What is $2+2$?",
            "solution": "...",
            "answer": "4",
            "level": 1,
            "unique_id": "a",
        }
    ]
    pd.DataFrame(math).to_parquet(downloads / "math500.parquet")
    for name, sums in (("test", [3, 4]), ("train", [5, 6])):
        rows = [
            {"question": f"Tom has {n} pens and buys 2.", "answer": f"{n}+2={n + 2}\n#### {n + 2}"}
            for n in sums
        ]
        pd.DataFrame(rows).to_parquet(downloads / f"gsm8k_{name}.parquet")
    star1 = [{"question": q, "response": "<think>\nNot safe.\n</think>\n\nNo."} for q in asked[5:]]
    Dataset.from_list(star1).to_parquet(downloads / "star1.parquet")
    (folder / "data").mkdir()
    opened = "<|begin|><|User|>Stand-in<|Assistant|><think>\nThey ask"
    pair = {
        "prompt": opened,
        "chosen": " too much.\n</think>\n\nNo.",
        "rejected": " so.\n</think>\n\nYes.",
    }
    (folder / "data" / "ipo.jsonl").write_text(json.dumps(pair) + "\n")


@pytest.fixture
def place(tmp_path):
    """Where a user would stand: the repository's files, data, and models in folders of their names."""
    for name in ("trainers", "constraints.txt"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_data(tmp_path)
    make_reasoner(tmp_path / BASE, "Qwen2", R1)
    shutil.copytree(tmp_path / BASE, tmp_path / BASE.replace("1.5B", "7B"))
    verdicts = [list("safe"), list("unsafe")]
    make_guard(tmp_path / "meta-llama" / "Llama-Guard-3-8B", LLAMA_GUARD, verdicts)
    verdicts = [["Safety:", " ", "Safe"], ["Safety:", " ", "Unsafe"]]
    make_guard(tmp_path / "Qwen" / "Qwen3Guard-Gen-8B", QWEN_GUARD, verdicts)
    return tmp_path


@pytest.fixture
def bench(tmp_path):
    """What the other pages start from: two checkpoints, a guard and a file of prompts."""
    prompts = [
        {"id": f"prompt-{i}", "prompt": f"Stand-in for request {i}", "domain": "harmful"}
        for i in (16, 17)
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    make_reasoner(tmp_path / "base-checkpoint", "Qwen2", R1)
    shutil.copytree(tmp_path / "base-checkpoint", tmp_path / "sft-checkpoint")
    verdicts = [["Safety:", " ", "Safe"], ["Safety:", " ", "Unsafe"]]
    make_guard(tmp_path / "Qwen" / "Qwen3Guard-Gen-8B", QWEN_GUARD, verdicts)
    return tmp_path


def run_bash(script, place, env):
    """Runs a script to its end; what failed is named."""
    for _ in range(600):
        if Path(env["PATH"], "s").exists():
            break
        threading.Event().wait(0.1)
    caught = "set -Eeuo pipefail\ntrap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n"
    done = subprocess.run(
        [str(BASH), "-c", caught + script], cwd=place, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done


@pytest.mark.skipif(
    BASH is None or not hasattr(socket, "send_fds"), reason="needs bash and the sockets of Unix"
)
def test_every_command_of_the_page_runs(place, shell, endpoint):
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    script = "".join(blocks)
    for words, instead in SUBSTITUTED.items():
        assert words in script
        script = script.replace(words, instead)
    done = run_bash(script, place, shell | {"ENDPOINT": endpoint})
    said, warned = done.stdout, done.stderr

    ran = [json.loads(line) for line in (place / "commands.jsonl").read_text().splitlines()]
    assert [
        " ".join(command) for command in ran if is_left_out(command[0], command[1:])
    ] == LEFT_OUT
    assert said.count("would train") == 3
    assert "LoRA: " in said
    for arm in ("sft", "grpo", "grpo-merged"):
        assert (place / "checkpoints" / "seed=0" / arm / "tokenizer.json").exists()

    measured = set(pd.read_csv(place / "drawn" / "study" / "measures.csv")["measure"])
    for measure in (
        "thinking_unsafe_forbidden", "thinking_unsafe_strongreject", "answer_unsafe_forbidden", "refuses_harmless",
        "is_correct_maths", "hidden_forbidden", "entropy_think_maths", "entropy_common_forbidden", "is_format_ok_all",
    ):  # fmt: skip
        assert measure in measured
    arms = pd.read_csv(place / "drawn" / "study" / "measures.csv").query(
        "measure == 'entropy_common_forbidden'"
    )
    assert arms["value"].nunique() == 3  # one text for all, seen by three models
    claims = pd.read_csv(place / "drawn" / "study" / "verdicts.csv")["claim"].str[:2]
    assert {"C1", "C2", "C3", "C5", "Q2"} <= set(claims)  # C4 needs injected misses
    drawn = {f"{path.parent.name}/{path.stem}" for path in (place / "drawn").glob("*/*/*.png")}
    assert drawn >= {
        "lengths/by_part",
        "reflection/rate",
        "reflection/position",
        "entropy/parts",
        "entropy/position",
        "entropy/around_reflection",
        "entropy/distribution",
        "entropy/forking_tokens",
        "entropy/kl_position",
        "unsafe/position",
        "judges/outcomes",
        "judges/thinking_by_answer",
        "judges/agreement",
        "judges/detector",
        "safety/unsafe_by_split",
        "safety/against_skill",
        "reflection/by_arm",
        "training/curves",
        "safety/costs",
        "entropy/by_arm",
        "judges/guard_by_arm",
        "confounds/differences",
    }
    curves = pd.read_csv(place / "drawn" / "study" / "training" / "curves.csv").query(
        "arm == 'grpo'"
    )
    assert {"Groups all alike", "Reward", "Entropy (nats)"} <= set(
        curves["panel"]
    )  # of the rollouts, and of TRL's log
    assert "no verdicts" not in warned
    assert "no scores" not in warned


def blocks_of(page):
    return re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.mark.skipif(
    BASH is None or not hasattr(socket, "send_fds"), reason="needs bash and the sockets of Unix"
)
def test_the_commands_of_the_other_pages_run(bench, shell):
    """In the order of the pages; what README leaves in its folder is what the others start from."""
    pages = [
        ROOT / "README.md",
        *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "real-models.md"),
    ]
    scripts = [text for page in pages for kind, text in blocks_of(page) if kind == "bash"]
    (make,) = [script for script in scripts if script.startswith("make figures ")]
    scripts.remove(make)  # which CI or a person runs

    # A reader's own file.
    shutil.copy(ROOT / "figures" / "data" / "sample_traces.jsonl", bench / "traces.jsonl")
    run_bash("".join(scripts), bench, shell)
    ran = [json.loads(line)[1] for line in (bench / "commands.jsonl").read_text().splitlines()]
    assert (
        len(ran)
        == sum(line.startswith("cotlens ") for text in scripts for line in text.splitlines())
        > 15
    )
    assert {
        "generate",
        "info",
        "analyze",
        "score",
        "guard",
        "probe",
        "view",
        "figures",
        "compare",
        "export",
    } == set(ran)
    for made in (
        "page.html",
        "pairs.html",
        "sft.parquet",
        "study-figures/measures.csv",
        "my-figures/lengths/by_part.png",
    ):
        assert (bench / made).exists(), made


def test_pages_have_no_block_that_no_test_runs():
    """Python blocks are run by tests/test_repo.py, bash here; output, trees and formulas stand in plain fences."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert {kind for kind, _ in blocks_of(page)} <= {"python", "bash"}, page


def test_the_text_of_the_page_holds():
    """What it says of the files beside it."""
    for path in re.findall(r"trainers/[\w/]+\.(?:py|yaml)", PAGE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    ("name", "architecture", "template"), [(LLAMA, "Llama", R1), (QWEN, "Qwen3", QWEN3)]
)
def test_other_families_start_alike(tmp_path, capsys, monkeypatch, name, architecture, template):
    """A dry run of SFT and of GRPO, and traces whose thought begins where the template says."""
    from cotlens import generate, read_traces, split_trace
    from cotlens.text.split import OpenedBy
    from trainers import grpo, sft

    monkeypatch.chdir(tmp_path)
    make_reasoner(tmp_path / name, architecture, template)
    rows = [
        {
            "prompt": "What is 2+2?",
            "completion": "<think>\nSo 4.\n</think>\n\n4",
            "domain": "math",
            "answer": "4",
        }
    ]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    capsys.readouterr()
    for script, recipe in ((sft, "sft_star1"), (grpo, "grpo_1gpu_lora")):
        columns = ["--columns", "{}", "--held_out"] if script is sft else ["--held_out"]
        Path("other.jsonl").write_text('{"prompt": "What is 3+3?"}')
        config = [
            "--config",
            str(ROOT / "trainers" / "configs" / f"{recipe}.yaml"),
            "--model_name_or_path",
            name,
        ]
        script.main([*config, "--data", "rows.jsonl", *columns, "other.jsonl", "--dry_run", "true"])
        shown = capsys.readouterr().out
        assert shown.count("<|begin|>") == 0  # the tokenizer adds it
        if script is sft:
            learned = "So 4." if template is R1 else "<think>\nSo 4."
            assert f"[[{learned}\n</think>\n\n4<|end|>]]" in shown
    options = {"enable_thinking": True} if template is QWEN3 else {}
    generate(
        "rows.jsonl", name, "traces", n=6, max_new_tokens=24, template_args=options, temperature=1.0
    )
    traces = list(read_traces("traces"))
    assert len(traces) == 6
    for trace in traces:
        assert trace.prompt.endswith("<think>\n") == (template is R1)
        assert template is not R1 or split_trace(trace).opened_by is OpenedBy.PROMPT


if __name__ == "__main__":
    serve(sys.argv[1])
