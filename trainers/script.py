"""What do the training scripts share? Arguments, the model and rows they name, and the dry run."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from cotlens.models.tokenizer import load_tokenizer
from trainers.bars import quiet
from trainers.render import render_prompt, request_of
from trainers.rows import Row, check_held_out, check_rows, load_rows
from trainers.watch import Evaluate


@dataclass
class ScriptArguments:
    """What a recipe needs in addition to TRL's settings."""

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Files (JSONL, JSON, parquet), or data sets on the Hub: NAME or NAME:CONFIG."
        },
    )
    data_split: str = field(
        default="train", metadata={"help": "Split of the data sets on the Hub."}
    )
    columns: dict | str | None = field(
        default_factory=dict,
        metadata={
            "help": "Our column: theirs; {prompt: instruction} in YAML, JSON on the command line."
        },
    )
    keep: dict | str | None = field(
        default_factory=dict, metadata={"help": "Keep rows with this value in this column."}
    )
    held_out: list[str] = field(
        default_factory=list,
        metadata={"help": "Data of the evaluation: a prompt that is also in `data` is an error."},
    )
    rendered: bool = field(
        default=False,
        metadata={
            "help": "Prompts are already rendered; they may end inside a thought, as in RECAP."
        },
    )
    rewards: list | str | None = field(
        default_factory=list,
        metadata={"help": "GRPO: name, weight and options of each reward (trainers/rewards.py)."},
    )
    contrast: float = field(
        default=0.0,
        metadata={"help": "SFT: weight of R2D's contrast of pivots (trainers/methods/pivots.py)."},
    )
    record: str | None = field(
        default=None,
        metadata={"help": "Folder for cotlens traces: rollouts of GRPO, samples of `watch`."},
    )
    watch: list[str] = field(
        default_factory=list,
        metadata={"help": "Data of prompts to sample during training, into `record`."},
    )
    watch_every: int = field(default=50, metadata={"help": "Steps between two samplings."})
    watch_tokens: int = field(
        default=4096, metadata={"help": "Most tokens of a completion that `watch` samples."}
    )
    anchored: bool = field(
        default=False,
        metadata={
            "help": "SFT: rows whose `anchor` is true keep to the model before training (a KL term)"
            ", the others are learned."
        },
    )
    method: str = field(default="", metadata={"help": "Name of the arm, kept in the traces."})
    dry_run: bool = field(
        default=False,
        metadata={
            "help": "Show rows, masks and trainable parameters; load no weights, train nothing."
        },
    )

    def __post_init__(self) -> None:
        for name in ("columns", "keep", "rewards"):
            value = getattr(self, name)
            if isinstance(value, str):
                setattr(self, name, json.loads(value))


def parse(
    config: Any, arguments: Sequence[str] | None = None
) -> tuple[ScriptArguments, Any, ModelConfig]:
    """Arguments of the command line, which win over those of `--config FILE`.

    Args:
        config: TRL's class of settings: SFTConfig, GRPOConfig or DPOConfig.
        arguments: None: those of the process.

    Raises:
        ValueError: for an unknown argument.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    # A look at a recipe needs no GPU.
    if "--dry_run" in arguments and not torch.cuda.is_available():
        arguments += ["--use_cpu", "true", "--bf16", "false"]

    # The usage names the module: argparse would print the name of the file.
    kinds: list[Any] = [ScriptArguments, config, ModelConfig]
    script_name = config.__name__.removesuffix("Config").lower()  # SFTConfig -> sft
    parser = TrlParser(
        kinds,
        prog=f"python -m trainers.{script_name}",
        usage="%(prog)s --config FILE [--OPTION VALUE ...]",
    )
    with quiet():
        script, args, model = parser.parse_args_and_config(arguments)
    return script, args, model


def load(
    script: ScriptArguments, model: ModelConfig
) -> tuple[Any, PreTrainedTokenizerBase, list[dict], Any]:
    """Model, tokenizer, rows and LoRA settings.

    In a dry run the model has shapes but no weights.

    Raises:
        ValueError: if no model is named, or the rows are not fit for training.
    """
    name = model.model_name_or_path
    revision = model.model_revision
    if not name:
        raise ValueError("no model: --model_name_or_path NAME")

    # Rows come first: an error in them should not cost the time of loading weights.
    columns = script.columns
    keep = script.keep
    assert not isinstance(columns, str)  # parsed from JSON by ScriptArguments
    assert not isinstance(keep, str)
    rows = load_rows(script.data, split=script.data_split, columns=columns, keep=keep)
    if script.held_out:
        check_held_out(rows, load_rows(script.held_out, split=script.data_split))

    tokenizer = load_tokenizer(name, revision=revision)
    if script.dry_run:
        # Parameters on the meta device take no memory, whatever the size of the model.
        architecture = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(architecture)
    else:
        network = AutoModelForCausalLM.from_pretrained(
            name,
            revision=revision,
            trust_remote_code=False,
            dtype=model.dtype,
            attn_implementation=model.attn_implementation,
            quantization_config=get_quantization_config(model),
        )
    return network, tokenizer, rows, get_peft_config(model)


def watching(script: ScriptArguments, tokenizer: PreTrainedTokenizerBase) -> list[Evaluate]:
    """The callback that samples the prompts of `watch`, in a list; empty if there are none.

    Raises:
        ValueError: if there is no folder for the samples, or a row has no prompt.
    """
    if not script.watch:
        return []
    if not script.record:
        raise ValueError("watch: name the folder that the samples go to, --record FOLDER")

    rows = load_rows(script.watch, split=script.data_split)
    check_rows(rows, ("prompt",))
    evaluate = Evaluate(
        [_rendered_row(tokenizer, row, rendered=script.rendered) for row in rows],
        tokenizer,
        Path(script.record),
        every=script.watch_every,
        max_new_tokens=script.watch_tokens,
        method=script.method,
    )
    return [evaluate]


def _rendered_row(tokenizer: PreTrainedTokenizerBase, row: Row, *, rendered: bool) -> dict:
    prompt = row["prompt"]
    rendered_row = dict(row)
    rendered_row["prompt"] = render_prompt(tokenizer, prompt, rendered=rendered)
    if not rendered:
        rendered_row["request"] = request_of(prompt)
    return rendered_row


def describe(
    first_row: str,
    lines: Sequence[str],
    model: Any,
    lora: Any,
) -> str:
    """The text of a dry run: `lines`, the first row, and the number of parameters that would train.

    What is learned of the row stands in brackets (`render.bracket`).
    """
    first_row = f"first row, what is learned in [[ ]]:\n{first_row}"

    kind = "full fine-tuning"
    if lora is not None:
        from peft import get_peft_model  # pyright: ignore[reportMissingImports]

        kind = "LoRA"
        with quiet():
            model = get_peft_model(model, lora, low_cpu_mem_usage=True)

    # Under LoRA, the weights of the base are frozen.
    n_parameters = 0
    n_trainable = 0
    for parameter in model.parameters():
        n_parameters += parameter.numel()
        if parameter.requires_grad:
            n_trainable += parameter.numel()
    trainable = f"{kind}: {n_trainable:,} of {n_parameters:,} parameters would train"
    return "\n".join([*lines, first_row, trainable])
