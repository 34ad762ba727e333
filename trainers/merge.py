"""Merge a LoRA adapter into its base: one checkpoint in the base's format, as vllm needs it.

    python -m trainers.merge checkpoints/grpo checkpoints/grpo-merged

The sum is computed in float32 and rounded once, to the type of the base's weights. `cotlens score`
and `cotlens generate` with transformers also read adapters without merging. Use one of the two for
everything in a study, because rounding makes them differ.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.merge"
    )

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cotlens.models.tokenizer import load_tokenizer
from trainers.bars import quiet


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    if arguments is None:
        arguments = sys.argv[1:]
    if len(arguments) != 2:
        raise SystemExit("usage: python -m trainers.merge ADAPTER OUT")
    adapter, out = arguments
    merge(adapter, out)


def merge(adapter: str | Path, out: str | Path) -> None:
    """Write base and adapter as one model, with the adapter's tokenizer.

    Raises:
        ValueError: if the folder holds no adapter.
    """
    from peft import PeftConfig, PeftModel  # pyright: ignore[reportMissingImports]

    config_file = Path(adapter) / "adapter_config.json"
    if not config_file.is_file():
        raise ValueError(f"{adapter}: no adapter_config.json: whole weights need no merging")

    # The adapter names the base that it was trained on.
    adapter_config = PeftConfig.from_pretrained(str(adapter))
    base = str(adapter_config.base_model_name_or_path)
    base_dtype = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype or torch.float32

    with quiet():
        # Sum in float32, so that rounding happens once.
        network = AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, trust_remote_code=False
        )
        with_adapter = PeftModel.from_pretrained(network, str(adapter))
        merged = with_adapter.merge_and_unload()
        merged = merged.to(base_dtype)
        merged.save_pretrained(out)

    tokenizer = load_tokenizer(str(adapter))
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
