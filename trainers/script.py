"""What the scripts share: arguments from a YAML file and the command line, the model they name, and the dry run."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from trainers.bars import quiet
from trainers.render import render_prompt, request_of
from trainers.rows import check_held_out, check_rows, load_rows
from trainers.watch import Evaluate


@dataclass
class ScriptArguments:
    """What a recipe needs beside TRL's own settings."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (JSONL, JSON, parquet), or data sets of the Hub: NAME or NAME:CONFIG."
        },
    )
    data_split: str = field(
        default="train", metadata={"help": "Split of the data sets of the Hub."}
    )
    columns: dict | str | None = field(
        default_factory=dict,
        metadata={"help": "Our column: theirs; {prompt: instruction} in YAML, JSON elsewhere."},
    )
    keep: dict | str | None = field(
        default_factory=dict, metadata={"help": "Keep rows with this value in this column."}
    )
    held_out: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Data of prompts that must not be trained on, those of the evaluation; one that is stops it."
        },
    )
    rendered: bool = field(
        default=False,
        metadata={
            "help": "Prompts are rendered already; they may end inside a thought, as in RECAP."
        },
    )
    rewards: list | str | None = field(
        default_factory=list,
        metadata={"help": "GRPO: name, weight and options of each reward (trainers/rewards.py)."},
    )
    record: str | None = field(
        default=None,
        metadata={"help": "Folder for cotlens traces: rollouts of GRPO, samples of `watch`."},
    )
    watch: list[str] = field(
        default_factory=list,
        metadata={"help": "Data of prompts that are sampled while training, into `record`."},
    )
    watch_every: int = field(default=50, metadata={"help": "Steps between two samplings."})
    watch_tokens: int = field(default=4096, metadata={"help": "Longest completion of a sampling."})
    method: str = field(default="", metadata={"help": "Name of the arm, for the traces."})
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Show rows, masks and trainable parameters; load no weights, train nothing."
        },
    )

    def __post_init__(self) -> None:
        for name in ("columns", "keep", "rewards"):
            if isinstance(value := getattr(self, name), str):
                setattr(self, name, json.loads(value))


def parse(
    config: Any, arguments: Sequence[str] | None = None
) -> tuple[ScriptArguments, Any, ModelConfig]:
    """Arguments of the command line over those of `--config FILE`. An unknown one raises ValueError."""
    kinds: list[Any] = [ScriptArguments, config, ModelConfig]
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if (
        "--dry_run" in arguments and not torch.cuda.is_available()
    ):  # a look at a recipe needs no GPU
        arguments += ["--use_cpu", "true", "--bf16", "false"]
    with quiet():
        script, args, model = TrlParser(kinds).parse_args_and_config(arguments)
    return script, args, model


def load(
    script: ScriptArguments, model: ModelConfig
) -> tuple[Any, PreTrainedTokenizerBase, list[dict], Any]:
    """Model, tokenizer, rows and LoRA settings. The rows come first: what is wrong with them costs no weights."""
    if not model.model_name_or_path:
        raise ValueError("no model: --model_name_or_path NAME")
    columns, keep = script.columns, script.keep
    assert not isinstance(columns, str)  # parsed from JSON by ScriptArguments
    assert not isinstance(keep, str)
    rows = load_rows(script.data, split=script.data_split, columns=columns, keep=keep)
    if script.held_out:
        check_held_out(rows, load_rows(script.held_out, split=script.data_split))
    name, revision = model.model_name_or_path, model.model_revision
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if script.dry_run:
        with torch.device("meta"):  # shapes only, whatever its size
            network = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(name, revision=revision)
            )
    else:
        network = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=model.dtype,
            attn_implementation=model.attn_implementation,
            quantization_config=get_quantization_config(model),
        )
    return network, tokenizer, rows, get_peft_config(model)


def watching(script: ScriptArguments, tokenizer: PreTrainedTokenizerBase) -> list[Evaluate]:
    """The callback that samples the prompts of `watch`, if there are any."""
    if not script.watch:
        return []
    if not script.record:
        raise ValueError("watch: name the folder that the samples go to, --record FOLDER")
    rows = load_rows(script.watch, split=script.data_split)
    check_rows(rows, ("prompt",))
    prompts = [
        row
        | {"prompt": render_prompt(tokenizer, row["prompt"], rendered=script.rendered)}
        | ({} if script.rendered else {"request": request_of(row["prompt"])})
        for row in rows
    ]
    return [
        Evaluate(
            prompts,
            tokenizer,
            Path(script.record),
            every=script.watch_every,
            max_new_tokens=script.watch_tokens,
            method=script.method,
        )
    ]


def describe(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    completion: str,
    lines: Sequence[str],
    model: Any,
    lora: Any,
) -> str:
    """What a dry run shows: rows and lengths, the first row with what is learned in brackets, and what would train."""
    shown = f"first row, what is learned in [[ ]]:\n{prompt}[[{completion}{tokenizer.eos_token}]]"
    if lora is not None:
        from peft import get_peft_model  # pyright: ignore[reportMissingImports]

        with quiet():
            model = get_peft_model(model, lora, low_cpu_mem_usage=True)
    total = sum(parameter.numel() for parameter in model.parameters())
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kind = "LoRA" if lora is not None else "full fine-tuning"
    return "\n".join([*lines, shown, f"{kind}: {learned:,} of {total:,} parameters would train"])
