"""Load a causal language model, and check its output head against its own logits.

Nothing else loads a model to score with.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotlens.files import short_name
from cotlens.models.scores import Head, score_hidden, score_logits
from cotlens.models.tokenizer import load_tokenizer
from cotlens.trace import TraceError


@dataclass(frozen=True, slots=True)
class Model:
    """A causal language model that has passed its check, with its tokenizer.

    Attributes:
        name: a folder or a repository of the Hub, as it was asked for.
        revision: the commit that was loaded; empty for a folder.
        network: the transformers model.
        tokenizer: its tokenizer, or None: then only traces with token ids can be scored.
        head: its output head, as `scores` takes it.
        context: the longest sequence it was made for, in tokens.
    """

    name: str
    revision: str
    network: Any
    tokenizer: Any
    head: Head
    context: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def n_words(self) -> int:
        """Size of the output vocabulary."""
        return self.head.weight.shape[0]

    @property
    def sees_length(self) -> bool:
        """Whether positions depend on the longest sequence of a batch, as `sees_length`."""
        return sees_length(self.network)

    @property
    def is_slow_on_cpu(self) -> bool:
        """Whether the weights are of a 16-bit type that this processor only emulates."""
        is_half = self.head.weight.dtype in (torch.bfloat16, torch.float16)
        if not is_half or self.device.type != "cpu":
            return False
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states (B, L, d) of token ids (B, L), which may be padded on the right.

        No mask is needed: in a causal model a token never sees what follows it.
        """
        output = self.network.base_model(input_ids=ids, use_cache=False)
        return output.last_hidden_state


def sees_length(network: Any) -> bool:
    """Whether a network's positions depend on the longest sequence of a batch.

    They do with LongRoPE and dynamic NTK. Such a model takes each sequence alone.
    """
    config = network.config.get_text_config()
    rope = str(getattr(config, "rope_parameters", ""))
    return re.search(r"'(?:rope_)?type': '(?:longrope|dynamic)'", rope) is not None


_DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# What transformers raises for a folder that is missing, damaged or of an unknown kind.
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def load_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "",
    dtype: str = "auto",
    tokenizer: Any = "auto",
) -> Model:
    """The model of a folder or a Hub repository, once its output head agrees with its own logits.

    Only safetensors are read, and no code that comes with the weights is run.

    Args:
        name: a folder or a repository.
        revision: branch, tag or commit of the repository.
        device: `cpu`, `cuda`, `cuda:1`, ...; default: the GPU if there is one.
        dtype: `auto` keeps the checkpoint's type; or `float32`, `bfloat16`, `float16`.
        tokenizer: a tokenizer; `auto` loads the model's own, as its tokenizer.json says
            (`load_tokenizer`); None does without.

    Raises:
        TraceError: if files are missing or damaged, weights are not finite, or the head does not
            explain the logits.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if dtype not in _DTYPES:
        raise TraceError(f"dtype {dtype!r} is not known; there are {', '.join(_DTYPES)}")

    # Weights from safetensors alone, and no code that comes with them.
    options = {"revision": revision, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
        if tokenizer == "auto":
            tokenizer = load_tokenizer(name, revision=revision)
    except (*_LOADING_ERRORS, SafetensorError) as error:
        where = ""
        if not Path(name).is_dir():
            where = " (there is no such folder here, so the Hub was asked)"
        raise TraceError(
            f"{name}: the model cannot be loaded{where}: {first_line(error)}"
        ) from error

    network, report = loaded
    _check_complete(name, report)

    # Without a device named, the GPU if there is one.
    if not device:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        network = network.to(device)
    except (AssertionError, RuntimeError) as error:
        raise TraceError(
            f"{name}: cannot be put on device {device!r}: {first_line(error)}"
        ) from error
    return wrap_model(network, tokenizer, name=name)


def _check_complete(name: str, report: dict[str, Any]) -> None:
    """Raise TraceError if weights were missing, which transformers fills with random numbers."""
    missing = sorted(report["missing_keys"])
    mismatched = report.get("mismatched_keys") or ()
    missing += sorted(str(key) for key in mismatched)
    if missing:
        raise TraceError(
            f"{name}: {len(missing)} weights are not in the files "
            f"({', '.join(missing[:3])}, ...): the checkpoint is incomplete; "
            "save or download it again"
        )


def wrap_model(network: Any, tokenizer: Any = None, *, name: str = "") -> Model:
    """A `Model` of a transformers causal language model in memory, checked as `load_model` does.

    It puts the network into evaluation mode.

    Raises:
        TraceError: if weights are not finite, the tokenizer has ids that the model lacks, or the
            head does not explain the model's own logits.
    """
    network.eval()
    config = network.config.get_text_config()
    model = Model(
        name=name or getattr(network, "name_or_path", "") or type(network).__name__,
        revision=getattr(network.config, "_commit_hash", None) or "",
        network=network,
        tokenizer=tokenizer,
        head=_head_of(network, config),
        context=getattr(config, "max_position_embeddings", None) or 2**31,
    )
    if tokenizer is not None:
        _check_tokenizer(model)
    _check_head(model)
    return model


def _head_of(network: Any, config: Any) -> Head:
    """The output head, with what the architecture does to its logits."""
    embeddings = network.get_output_embeddings()
    if embeddings is None:
        kind = type(network).__name__
        raise TraceError(f"{kind} has no output head: it is not a causal language model")

    # Cohere multiplies its logits, Granite divides them, Gemma 2 caps them.
    scale = getattr(config, "logit_scale", None)
    if not scale:
        divisor = getattr(config, "logits_scaling", None) or 1.0
        scale = 1.0 / divisor
    softcap = getattr(config, "final_logit_softcapping", None)
    bias = getattr(embeddings, "bias", None)
    return Head(embeddings.weight, bias, float(scale), softcap)


def _check_tokenizer(model: Model) -> None:
    # A few ids beyond the head are tokens that the model never reads or writes, such as the image
    # token of Gemma 3. More are not.
    largest_id = max(model.tokenizer.get_vocab().values())
    if largest_id >= model.n_words + model.n_words // 4000:
        raise TraceError(
            f"{model.name}: the tokenizer has ids up to {largest_id:,}, but the model only "
            f"{model.n_words:,} words: they do not belong together"
        )


@torch.inference_mode()
def _check_head(model: Model) -> None:
    """Compare scores of one short text from the head with those from the model's own logits."""
    # Words spread evenly over the vocabulary.
    kind = type(model.network).__name__
    n_tokens = min(16, model.context)
    ids = torch.linspace(0, model.n_words - 1, n_tokens).long()[None].to(model.device)
    logits = model.network(input_ids=ids, use_cache=False).logits[0].float()

    # A model may mask words in every row, but no row may be masked whole.
    is_finite = torch.isfinite(logits)
    if not is_finite.any(1).all() or torch.isnan(logits).any():
        raise TraceError(
            f"{model.name}: the model's logits are not numbers: its weights are damaged"
        )

    targets = ids[0].roll(-1)
    try:
        from_head = score_hidden(model.hidden(ids)[0], targets, model.head)
    except (AttributeError, TypeError) as error:
        raise TraceError(
            f"{model.name}: {kind} does not show its final hidden states ({error}); "
            "it cannot be scored"
        ) from None
    from_logits = score_logits(logits, targets)

    # A head in 16 bits rounds every logit that it returns; ours are not rounded.
    largest_logit = float(logits[is_finite].abs().max())
    rounding = torch.finfo(model.head.weight.dtype).eps
    allowed = 1e-3 + 4 * rounding * largest_logit

    entropy_error = (from_head.entropy - from_logits.entropy).abs().max()
    logprob_error = (from_head.logprob - from_logits.logprob).abs().max()
    error = max(float(entropy_error), float(logprob_error))
    if not error <= allowed:
        raise TraceError(
            f"{model.name}: {kind} does something to its logits that cotlens does not know "
            f"(scores differ by {error:.2g} nats, allowed is {allowed:.2g}); it cannot be scored"
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type if the message is empty."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fingerprint(network: Any) -> str:
    """16 hex digits that distinguish checkpoints.

    They hash every byte of every weight. Checkpoints of one training run are in folders of the same
    name and may differ in one number, and their scores must not be mixed.
    """
    digest = hashlib.blake2b()  # a gigabyte a second
    for name, weight in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        numbers = weight.detach().contiguous().reshape(-1)
        for start in range(0, len(numbers), _HASHED_AT_ONCE):
            part = numbers[start : start + _HASHED_AT_ONCE].cpu()
            digest.update(part.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


_HASHED_AT_ONCE = 2**24  # numbers, on their way from a GPU


def describe_model(model: Model) -> dict[str, str]:
    """What distinguishes a loaded model, as `describe_network`."""
    return describe_network(model.network, model.name, model.revision)


def describe_network(network: Any, name: str, revision: str = "") -> dict[str, str]:
    """What distinguishes a network: name, revision, weights, and what it computes with."""
    dtype = network.get_output_embeddings().weight.dtype
    return {
        "name": short_name(name),
        "revision": revision,
        "fingerprint": fingerprint(network),
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(network.device),
    }
