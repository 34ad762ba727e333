"""Sampling with vLLM, with the same seeds and settings as transformers."""

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotlens.files import hash_path, model_versions, short_name
from cotlens.models.sample import Engine, Job, Sampling, Write, end_ids
from cotlens.trace import TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model


# --- vllm ------------------------------------------------------------------------------------------------------
def open_vllm(
    model: "Model | str",
    sampling: Sampling,
    batch_tokens: int | None,
    *,
    revision: str | None,
    device: str,
    dtype: str,
) -> Engine:
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TraceError(
            f"the engine vllm cannot be loaded ({error}): install vllm, or take transformers"
        ) from None
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    if not isinstance(model, str) or device or batch_tokens:
        raise TraceError(
            "vllm loads a model by its name, takes the GPUs it sees (no device), and makes its own batches"
        )
    if (Path(model) / "adapter_config.json").exists():
        raise TraceError(
            f"{model}: an adapter, which vllm does not read alone; first python -m trainers.merge {model}"
        )
    safe: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        whole, tokenizer = (
            AutoConfig.from_pretrained(model, **safe),
            AutoTokenizer.from_pretrained(model, **safe),
        )
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(f"{model}: the model cannot be loaded: {error}") from error
    try:
        own = GenerationConfig.from_pretrained(model, revision=revision or "main")
    except (
        OSError
    ):  # many checkpoints have none; then the model's configuration says where a text ends
        own = whole.get_text_config()
    ends = end_ids(tokenizer, own)

    def start(longest: int) -> Write:
        llm = vllm.LLM(  # pyright: ignore[reportAttributeAccessIssue]
            model=model, revision=revision, tokenizer_revision=revision, dtype=dtype, seed=0,
            max_model_len=longest + sampling.max_new_tokens, load_format="safetensors", trust_remote_code=False,
            generation_config="vllm",  # its own defaults, nothing of the checkpoint's
        )  # fmt: skip
        return partial(_ask_vllm, vllm, llm, sampling, ends)

    weights = "".join(
        map(hash_path, sorted(Path(model).glob("*.safetensors")))
    )  # of a repository, its commit says it
    about = {
        "name": short_name(model),
        "revision": getattr(whole, "_commit_hash", None) or "",
        "dtype": dtype,
    }
    versions = model_versions() | {"vllm": version("vllm")}
    made_by = {
        "model": about | {"fingerprint": hash_text(weights) if weights else ""},
        "versions": versions,
    }
    context = getattr(whole.get_text_config(), "max_position_embeddings", None) or 2**31
    return Engine(made_by, tokenizer, ends, context, start)


def _ask_vllm(
    vllm: Any, llm: Any, sampling: Sampling, ends: list[int], jobs: list[Job]
) -> Iterator[tuple[Job, list[int]]]:
    """The completions of a shard, whose jobs stand prompt by prompt."""
    first = jobs[:: sampling.n]
    params = [
        vllm.SamplingParams(
            n=sampling.n, seed=sampling.seed_of(job.prompt), temperature=sampling.temperature, top_p=sampling.top_p,
            top_k=sampling.top_k or -1, min_p=0.0, repetition_penalty=1.0, max_tokens=sampling.max_new_tokens,
            stop_token_ids=ends, detokenize=False,
        )
        for job in first
    ]  # fmt: skip
    outputs = llm.generate([{"prompt_token_ids": job.ids} for job in first], params, use_tqdm=False)
    for job, output in zip(first, outputs, strict=True):
        for one in output.outputs:
            yield job._replace(sample=one.index), list(one.token_ids)
