"""R2D's pivots as words of a model: added to its tokenizer, looked up, and how sure it is of them.

    python -m trainers.methods.pivots MODEL OUT

writes MODEL with the pivots in its vocabulary, to train with trainers/configs/sft_r2d.yaml. A LoRA
adapter then has this folder as its base, and is scored, sampled and merged like any other.

Departs from the authors' code: their ids are the last of the vocabulary, counted from its end, and
they add reserves; here the tokenizer gives the ids. New words start as the mean of the old ones. A
model whose head is tied to its embeddings is untied, because LoRA trains both
(`modules_to_save`), and whoever believes `tie_word_embeddings` would take the embeddings for the
trained head.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.pivots"
    )

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AddedToken, AutoModelForCausalLM, PreTrainedTokenizerBase

from cotlens.measures.pivots import Pivot
from cotlens.models.tokenizer import load_tokenizer
from trainers.bars import quiet
from trainers.methods.losses import PivotTrainer
from trainers.render import encode
from trainers.sft import prepare

# The opposite of each pivot that the contrast is about.
OPPOSITE = {Pivot.SAFE: Pivot.UNSAFE, Pivot.UNSAFE: Pivot.SAFE}


def pivot_ids(tokenizer: PreTrainedTokenizerBase) -> dict[Pivot, int]:
    """The id of each pivot.

    Raises:
        ValueError: if a pivot is no word of the tokenizer, or a special one, which decoding drops.
    """
    vocabulary = tokenizer.get_vocab()
    name = tokenizer.name_or_path or type(tokenizer).__name__
    missing = [pivot for pivot in Pivot if pivot not in vocabulary]
    if missing:
        raise ValueError(
            f"{name}: {', '.join(missing)} are no words of its vocabulary; "
            "add them first: python -m trainers.methods.pivots MODEL OUT"
        )

    # Special ones would never be seen in a trace.
    added = tokenizer.added_tokens_decoder
    special = []
    for pivot in Pivot:
        word = added.get(vocabulary[pivot])
        if word is not None and word.special:
            special.append(pivot)
    if special:
        raise ValueError(
            f"{name}: {', '.join(special)} are special tokens, which are left out when a "
            "completion is decoded; add them as ordinary ones"
        )
    return {pivot: vocabulary[pivot] for pivot in Pivot}


def contrast_options(tokenizer: PreTrainedTokenizerBase, weight: float = 1.0) -> dict[str, Any]:
    """What makes `trainers.sft.train` a training of R2D.

    Args:
        tokenizer: with pivots.
        weight: of the contrast; 0: cross-entropy alone.
    """
    ids = pivot_ids(tokenizer)
    return {
        "trainer_class": PivotTrainer,
        "pivots": (ids[Pivot.SAFE], ids[Pivot.UNSAFE]),
        "contrast": weight,
    }


def add_pivots(network: Any, tokenizer: PreTrainedTokenizerBase) -> dict[Pivot, int]:
    """Add the pivots to a tokenizer and to its network, in place, and untie the network's head.

    Both embedding and head of a new word are the mean over the words that were there. Rows that
    only pad the matrix are no words. The matrices never shrink.

    Returns:
        The id of each pivot.
    """
    n_words = len(tokenizer)
    vocabulary = tokenizer.get_vocab()
    added = []
    for pivot in Pivot:
        if pivot not in vocabulary:
            added.append(pivot)
            word = AddedToken(pivot.value, special=False, normalized=False)
            tokenizer.add_tokens([word])
    ids = pivot_ids(tokenizer)

    # Some models have more rows than words.
    n_rows = network.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_rows:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    _untie(network)

    # Means of embedding and head, and of the head's bias where it has one.
    new_rows = [ids[pivot] for pivot in added]
    head = network.get_output_embeddings()
    embeddings = network.get_input_embeddings()
    matrices = [embeddings.weight, head.weight]
    if getattr(head, "bias", None) is not None:
        matrices.append(head.bias)
    with torch.no_grad():
        for matrix in matrices:
            if new_rows:
                mean = matrix[:n_words].float().mean(0)
                matrix[new_rows] = mean.to(matrix.dtype)
    return ids


def _untie(network: Any) -> None:
    """Give the head a matrix of its own, equal to the embeddings that it had."""
    embeddings = network.get_input_embeddings()
    head = network.get_output_embeddings()
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone())
    network.config.tie_word_embeddings = False
    network.config.get_text_config().tie_word_embeddings = False


def pivot_margins(
    network: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]]
) -> pd.DataFrame:
    """How much a network prefers the right one of SAFE and UNSAFE, in nats.

    Args:
        network: a causal language model.
        tokenizer: its tokenizer, with pivots.
        rows: `prompt` and `completion`, with pivots; held-out ones, if it shall say anything.

    Returns:
        One row per place of SAFE or UNSAFE: `row`; `pivot`, which is right; `margin`, its logit
        less that of the other one.
    """
    ids = pivot_ids(tokenizer)
    pivot_of = {ids[pivot]: pivot for pivot in OPPOSITE}
    margins = []
    ready = prepare(tokenizer, rows) if rows else []
    for number, row in enumerate(ready):
        encoded = encode(tokenizer, row["prompt"], row["completion"])
        input_ids = torch.tensor([encoded.input_ids], device=network.device)
        with torch.no_grad():
            logits = network(input_ids=input_ids, use_cache=False).logits[0]

        # Where one of the two is right. The logits of a place are those after the word before it.
        for place, label in enumerate(encoded.labels):
            pivot = pivot_of.get(label)
            if pivot is None:
                continue
            before = logits[place - 1].float()
            opposite = ids[OPPOSITE[pivot]]
            margin = before[label] - before[opposite]
            margins.append((number, pivot.value, margin.item()))
    return pd.DataFrame(margins, columns=["row", "pivot", "margin"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script."""
    if arguments is None:
        arguments = sys.argv[1:]
    if len(arguments) != 2:
        raise SystemExit("usage: python -m trainers.methods.pivots MODEL OUT")
    model, out = arguments
    if Path(out).exists():
        raise SystemExit(f"{out}: exists already; name another folder, or remove it")

    # The type of the weights stays what it is.
    tokenizer = load_tokenizer(model)
    with quiet():
        network = AutoModelForCausalLM.from_pretrained(model, dtype="auto", trust_remote_code=False)
        ids = add_pivots(network, tokenizer)
        network.save_pretrained(out)
    tokenizer.save_pretrained(out)
    named = ", ".join(f"{pivot} {number}" for pivot, number in ids.items())
    print(f"{out}: {named}")


if __name__ == "__main__":
    main()
