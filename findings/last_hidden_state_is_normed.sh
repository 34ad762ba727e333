#!/usr/bin/env bash
# The last of transformers' hidden_states is not the output of the last block: it has been through the final norm.
#
# Version: transformers 5.23.0 (torch 2.13.0), random Llama, Qwen3, Gemma 3 and GPT-2 of three blocks.
#
# One would expect: hidden_states has "the output of each layer plus the initial embedding outputs" (the docstring of
# the model's output), so that entry k is what block k has written, for every k, and entry -1 what the last block has.
#
# Seen: entries up to -2 are outputs of blocks, bit for bit. Entry -1 is the output of the last block after the
# network's final norm (the last_hidden_state). What the last block itself has written is in none of the entries.
#
# Why it matters: a sweep over layers (probes of the last token, centroids, distances from a boundary, cosines) mixes
# two spaces. Here the length of a state changes by the factor printed from -2 to -1, which is the norm and no layer.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0
"$folder/venv/bin/pip" install --quiet transformers==5.23.0

cd "$folder"
cat > run.py <<'PY'
import sys

import torch
import transformers

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}
GPT2_SIZES = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}


def build(name):
    """A random network, its blocks, and its final norm."""
    torch.manual_seed(0)
    if name == "GPT2":
        network = transformers.GPT2Model(transformers.GPT2Config(**GPT2_SIZES)).eval()
        return network, network.h, network.ln_f
    config = getattr(transformers, f"{name}Config")(**SIZES)
    network = getattr(transformers, f"{name}Model")(config).eval()
    return network, network.layers, network.norm


is_as_stated = True
for name in ("Llama", "Qwen3", "Gemma3Text", "GPT2"):
    network, blocks, norm = build(name)
    written = []

    def keep(module, inputs, output, written=written):
        written.append(output[0] if isinstance(output, tuple) else output)

    for block in blocks:
        block.register_forward_hook(keep)
    with torch.no_grad():
        output = network(torch.arange(1, 9)[None], output_hidden_states=True)
        normed = norm(written[-1])

    # Entries against what hooks saw the blocks write.
    states = output.hidden_states
    earlier = [torch.equal(states[k], written[k - 1]) for k in (1, 2)]
    is_last_written = torch.allclose(states[-1], written[-1], atol=1e-3)
    is_last_normed = torch.allclose(states[-1], normed, atol=1e-5)
    lengths = [float(state.norm(dim=-1).mean()) for state in (states[-2], written[-1], states[-1])]
    print(f"{name:10} of {len(states)} entries, 1 and 2 are outputs of blocks: {all(earlier)}; "
          f"the last is the last block's: {is_last_written}, after the norm: {is_last_normed}")
    print(f"{'':10} mean length of entry -2, of what the last block wrote, of entry -1: "
          + ", ".join(f"{length:.2f}" for length in lengths)
          + f" (factor {lengths[2] / lengths[0]:.1f})")
    is_as_stated &= all(earlier) and not is_last_written and is_last_normed

sys.exit(0 if is_as_stated else 1)
PY
"$folder/venv/bin/python" run.py
