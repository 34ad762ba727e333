"""An adapter put into the weights it was trained on: a checkpoint of the base's own shape, as vllm reads it.

    python -m trainers.merge checkpoints/grpo checkpoints/grpo-merged

The sum is made in float32 and rounded once, to the type of the base's weights. `cotlens score` and `cotlens generate`
with transformers read adapters as they are; take one of the two for everything, since rounding tells them apart.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trainers.bars import quiet


def merge(adapter: str | Path, out: str | Path) -> None:
    """Writes base and adapter as one model, with the adapter's tokenizer.

    Raises:
        ValueError: if the folder holds no adapter.
    """
    from peft import PeftConfig, PeftModel  # pyright: ignore[reportMissingImports]

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(f"{adapter}: no adapter_config.json: whole weights need no merging")
    base = str(PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    with quiet():
        network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        PeftModel.from_pretrained(network, str(adapter)).merge_and_unload().to(
            dtype
        ).save_pretrained(out)
    AutoTokenizer.from_pretrained(adapter).save_pretrained(out)


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if len(arguments) != 2:
        raise SystemExit("usage: python -m trainers.merge ADAPTER OUT")
    merge(*arguments)


if __name__ == "__main__":
    main()
