"""The model under study: loaded, checked against itself, and asked what it thought of every token of a trace.

`trace <- scores <- model`. Nothing else loads a model. A trace with token ids is scored on exactly those; a trace of
text is encoded once, and what that may have changed is reported beside its scores.
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
from cotlens.trace import TraceError


@dataclass(frozen=True, slots=True)
class Model:
    """A causal language model that has passed its check, with its tokenizer.

    Attributes:
        name: as it was asked for: a folder or a repository of the Hub.
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
        return self.network.device

    @property
    def n_words(self) -> int:
        """Size of the output vocabulary."""
        return self.head.weight.shape[0]

    @property
    def sees_length(self) -> bool:
        """Whether positions depend on the longest sequence of a batch (LongRoPE, dynamic NTK): then each goes alone."""
        text = self.network.config.get_text_config()
        return bool(
            re.search(
                r"'(?:rope_)?type': '(?:longrope|dynamic)'",
                str(getattr(text, "rope_parameters", "")),
            )
        )

    @property
    def is_slow_on_cpu(self) -> bool:
        """Whether the weights are of a 16-bit type that this processor only emulates."""
        half = self.head.weight.dtype in (torch.bfloat16, torch.float16)
        return (
            half and self.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
        )

    def hidden(self, ids: Tensor) -> Tensor:
        """Final hidden states (B, L, d) of token ids (B, L) that are padded on the right, if at all.

        No mask is needed: in a causal model a token never sees what stands right of it.
        """
        return self.network.base_model(input_ids=ids, use_cache=False).last_hidden_state


# --- loading ---------------------------------------------------------------------------------------------------
def load_model(
    name: str,
    *,
    revision: str | None = None,
    device: str = "",
    dtype: str = "auto",
    tokenizer: Any = "auto",
) -> Model:
    """The model of a folder or a Hub repository, after a check of its output head against its own logits.

    Only safetensors are read, and no code that comes with the weights is run.

    Args:
        name: a folder or a repository.
        revision: branch, tag or commit of the repository.
        device: `cpu`, `cuda`, `cuda:1`, ...; default: the GPU if there is one.
        dtype: `auto` keeps the checkpoint's own type; or `float32`, `bfloat16`, `float16`.
        tokenizer: a tokenizer; `auto` loads the model's own; None does without.

    Raises:
        TraceError: if files are missing or damaged, weights are not finite, or the head does not explain the logits.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if dtype not in _DTYPES:
        raise TraceError(f"dtype {dtype!r} is not known; there are {', '.join(_DTYPES)}")
    options = {"revision": revision, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
        if tokenizer == "auto":
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (*_LOADING_ERRORS, SafetensorError) as error:
        where = (
            "" if Path(name).is_dir() else " (there is no such folder here, so the Hub was asked)"
        )
        raise TraceError(
            f"{name}: the model cannot be loaded{where}: {first_line(error)}"
        ) from error
    network, report = loaded
    missing = sorted(report["missing_keys"]) + sorted(
        str(key) for key in report.get("mismatched_keys") or ()
    )
    if missing:
        raise TraceError(
            f"{name}: {len(missing)} weights are not in the files ({', '.join(missing[:3])}, ...): the checkpoint is "
            "incomplete; save or download it again"
        )
    try:
        network = network.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except (AssertionError, RuntimeError) as error:
        raise TraceError(
            f"{name}: cannot be put on device {device!r}: {first_line(error)}"
        ) from error
    return wrap_model(network, tokenizer, name=name)


_DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# What transformers and safetensors raise for a folder that is missing, damaged or of no known kind.
_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def wrap_model(network: Any, tokenizer: Any = None, *, name: str = "") -> Model:
    """A transformers causal language model in memory, made ready to score and checked as `load_model` does.

    Raises:
        TraceError: if weights are not finite, the tokenizer has ids the model lacks, or the head does not explain
            the model's own logits.
    """
    network.eval()
    config = network.config.get_text_config()
    name = name or getattr(network, "name_or_path", "") or type(network).__name__
    model = Model(
        name=name,
        revision=getattr(network.config, "_commit_hash", None) or "",
        network=network,
        tokenizer=tokenizer,
        head=_head_of(network, config),
        context=getattr(config, "max_position_embeddings", None) or 2**31,
    )
    # A few ids beyond the head are tokens that the model never reads or writes (Gemma 3's image token); more are not.
    if (
        tokenizer is not None
        and max(tokenizer.get_vocab().values()) >= model.n_words + model.n_words // 4000
    ):
        raise TraceError(
            f"{name}: the tokenizer has ids up to {max(tokenizer.get_vocab().values()):,}, but the model only "
            f"{model.n_words:,} words: they do not belong together"
        )
    _check_head(model)
    return model


def fingerprint(network: Any) -> str:
    """16 hex digits that tell checkpoints apart: of up to 1,024 numbers, evenly spread, of every weight.

    Two checkpoints of one training run lie in folders of the same name; their scores must not be mixed.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.state_dict().items()):
        flat = weight.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 1024)][:1024].float().cpu().numpy()
        digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode() + some.tobytes())
    return digest.hexdigest()[:16]


def _head_of(network: Any, config: Any) -> Head:
    """The output head, with what the architecture does to its logits."""
    embeddings = network.get_output_embeddings()
    if embeddings is None:
        raise TraceError(
            f"{type(network).__name__} has no output head: it is not a causal language model"
        )
    scale = getattr(config, "logit_scale", None) or 1.0 / (
        getattr(config, "logits_scaling", None) or 1.0
    )
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(embeddings.weight, getattr(embeddings, "bias", None), float(scale), softcap)


@torch.inference_mode()
def _check_head(model: Model) -> None:
    """Compares one short text's scores from the head with those from the model's own logits."""
    ids = torch.linspace(0, model.n_words - 1, min(16, model.context)).long()[None].to(model.device)
    logits = model.network(input_ids=ids, use_cache=False).logits[0].float()
    if not torch.isfinite(logits).any(1).all() or torch.isnan(logits).any():
        raise TraceError(
            f"{model.name}: the model's logits are not numbers: its weights are damaged"
        )
    targets = ids[0].roll(-1)
    try:
        ours, own = (
            score_hidden(model.hidden(ids)[0], targets, model.head),
            score_logits(logits, targets),
        )
    except (AttributeError, TypeError) as error:
        kind = type(model.network).__name__
        raise TraceError(
            f"{model.name}: {kind} does not show its final hidden states ({error}); it cannot be scored"
        ) from None
    # A head in 16 bits rounds every logit it returns; ours are not rounded.
    unit = torch.finfo(model.head.weight.dtype).eps
    allowed = 1e-3 + 4 * unit * float(logits[torch.isfinite(logits)].abs().max())
    off = max(
        float((a - b).abs().max())
        for a, b in ((ours.entropy, own.entropy), (ours.logprob, own.logprob))
    )
    if not off <= allowed:
        raise TraceError(
            f"{model.name}: {type(model.network).__name__} does something to its logits that cotlens does not know "
            f"(scores differ by {off:.2g} nats, allowed is {allowed:.2g}); it cannot be scored"
        )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def describe_model(model: "Model") -> dict[str, str]:
    """What tells a loaded model from another: its name, revision and weights, and what it computes with."""
    from cotlens.models.load import fingerprint

    return {
        "name": short_name(model.name),
        "revision": model.revision,
        "fingerprint": fingerprint(model.network),
        "dtype": str(model.head.weight.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
