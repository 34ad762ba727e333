"""Checkpoints of strangers: code that is never run, templates that never end, weights that differ in one number."""

import ast
import time

import pytest
import torch
from places import ROOT
from tiny import byte_tokenizer, tiny_model

from cotlens import TraceError
from cotlens.models import template
from cotlens.models.load import fingerprint

# --- code ----------------------------------------------------------------------------------------

LOADERS = ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "PreTrainedTokenizerFast")


def calls_of_loaders():
    """Every call of a loader of transformers in the tree: file, line, and the call."""
    for folder in ("cotlens", "trainers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call):
                    continue
                loader, _, method = ast.unparse(node.func).partition(".")
                if loader in LOADERS and method == "from_pretrained":
                    yield f"{path.name}:{node.lineno}", node


def test_no_loader_runs_the_code_of_a_checkpoint():
    """Each says so itself: the library would ask on stdin, and take a yes that stands there."""
    seen = 0
    for place, call in calls_of_loaders():
        seen += 1
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        is_refused = given.get("trust_remote_code") == "False" or given.get(None) == "options"
        assert is_refused, place
    assert seen >= 8


def test_a_tokenizer_with_code_is_refused_whatever_stdin_says(tmp_path):
    """Through the command line, with yes on stdin; the code would leave a file."""
    import json
    import subprocess
    import sys

    folder = tmp_path / "model"
    byte_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["own.Own", None]}
    config["tokenizer_class"] = "Own"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "token_ids": [1, 2]}))
    command = [sys.executable, "-m", "cotlens.cli", "analyze", str(tmp_path / "rows.jsonl")]
    command += ["-o", str(tmp_path / "run"), "--tokenizer", str(folder)]
    subprocess.run(command, input=b"y\ny\n", capture_output=True, check=False)
    assert not (tmp_path / "ran").exists()


# --- templates -----------------------------------------------------------------------------------

ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
MESSAGES = [{"role": "user", "content": "hi"}]


def test_a_template_that_never_ends(monkeypatch):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = ENDLESS
    monkeypatch.setattr(template, "LIMIT", 0.3)
    started = time.monotonic()
    with pytest.raises(TraceError, match=r"prompt 7: the chat template has not taken the prompt"):
        template.apply_template(tokenizer, MESSAGES, "prompt 7")
    assert time.monotonic() - started < 10

    # The next one is not disturbed.
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert template.apply_template(tokenizer, MESSAGES, "prompt 8") == "hi"


# --- weights -------------------------------------------------------------------------------------


def test_one_number_makes_another_fingerprint():
    """Also one that no sample of a thousand numbers would meet."""
    network = tiny_model(256)
    before = fingerprint(network)
    assert fingerprint(network) == before

    weight = max(network.parameters(), key=lambda one: one.numel())
    with torch.no_grad():
        weight.view(-1)[weight.numel() // 2 + 1] += 1e-3
    assert fingerprint(network) != before


def test_the_fingerprint_is_of_the_bytes():
    network = tiny_model(256)
    assert fingerprint(network) != fingerprint(network.to(torch.bfloat16))
