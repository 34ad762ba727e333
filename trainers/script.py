"""What the scripts share: arguments from a YAML file and the command line, the model they name, and the dry run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rows import load_rows
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config


@dataclass
class ScriptArguments:
    """What a recipe needs beside TRL's own settings."""

    data: list[str] = field(
        default_factory=list,
        metadata={"help": "Files (JSONL, JSON, parquet), or data sets of the Hub: NAME or NAME:CONFIG."},
    )
    data_split: str = field(default="train", metadata={"help": "Split of the data sets of the Hub."})
    columns: dict | str | None = field(
        default_factory=dict, metadata={"help": "Our column: theirs; {prompt: instruction} in YAML, JSON elsewhere."}
    )
    keep: dict | str | None = field(
        default_factory=dict, metadata={"help": "Keep rows with this value in this column."}
    )
    rendered: bool = field(
        default=False, metadata={"help": "Prompts are rendered already; they may end inside a thought, as in RECAP."}
    )
    rewards: list | str | None = field(
        default_factory=list, metadata={"help": "GRPO: name, weight and options of each reward (trainers/rewards.py)."}
    )
    record: str | None = field(default=None, metadata={"help": "GRPO: folder for the rollouts as cotlens traces."})
    method: str = field(default="", metadata={"help": "Name of the arm, for the traces."})
    dry_run: bool = field(
        default=False, metadata={"help": "Show rows, masks and trainable parameters; load no weights, train nothing."}
    )

    def __post_init__(self) -> None:
        for name in ("columns", "keep", "rewards"):
            if isinstance(value := getattr(self, name), str):
                setattr(self, name, json.loads(value))


def parse(config: Any, arguments: Sequence[str] | None = None) -> tuple[ScriptArguments, Any, ModelConfig]:
    """Arguments of the command line over those of `--config FILE`. An unknown one raises ValueError."""
    kinds: list[Any] = [ScriptArguments, config, ModelConfig]
    script, args, model = TrlParser(kinds).parse_args_and_config(arguments)
    return script, args, model


def load(script: ScriptArguments, model: ModelConfig) -> tuple[Any, PreTrainedTokenizerBase, list[dict], Any]:
    """Model, tokenizer, rows and LoRA settings. The rows come first: what is wrong with them costs no weights."""
    if not model.model_name_or_path:
        raise ValueError("no model: --model_name_or_path NAME")
    rows = load_rows(script.data, split=script.data_split, columns=script.columns, keep=script.keep)
    name, revision = model.model_name_or_path, model.model_revision
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    if script.dry_run:
        with torch.device("meta"):  # shapes only, whatever its size
            network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(name, revision=revision))
    else:
        network = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            dtype=model.dtype,
            attn_implementation=model.attn_implementation,
            quantization_config=get_quantization_config(model),
        )
    return network, tokenizer, rows, get_peft_config(model)


def describe(
    tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str, lines: Sequence[str], model: Any, lora: Any
) -> str:
    """What a dry run shows: rows and lengths, the first row with what is learned in brackets, and what would train."""
    shown = f"first row, what is learned in [[ ]]:\n{prompt}[[{completion}{tokenizer.eos_token}]]"
    if lora is not None:
        from peft import get_peft_model  # pyright: ignore[reportMissingImports]

        model = get_peft_model(model, lora, low_cpu_mem_usage=True)
    total = sum(parameter.numel() for parameter in model.parameters())
    learned = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kind = "LoRA" if lora is not None else "full fine-tuning"
    return "\n".join([*lines, shown, f"{kind}: {learned:,} of {total:,} parameters would train"])
