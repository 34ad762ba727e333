"""Sample completions with vLLM, with the same seeds and settings as `sample` does."""

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


def open_vllm(
    model: "Model | str",
    sampling: Sampling,
    batch_tokens: int | None,
    *,
    revision: str | None,
    device: str,
    dtype: str,
) -> Engine:
    """An engine that samples with vLLM.

    Args:
        model: a folder or a repository of the Hub.
        sampling: how completions are drawn.
        batch_tokens: must be None, because vLLM makes its own batches.
        revision: branch, tag or commit of the repository.
        device: must be empty, because vLLM takes the GPUs it sees.
        dtype: as in `load_model`.

    Raises:
        TraceError: if vLLM is missing, cannot take these arguments, or cannot load the model.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TraceError(
            f"the engine vllm cannot be loaded ({error}): install vllm, or take transformers"
        ) from None
    from transformers import AutoConfig, AutoTokenizer

    if not isinstance(model, str) or device or batch_tokens:
        raise TraceError(
            "vllm loads a model by its name, takes the GPUs it sees (no device), "
            "and makes its own batches"
        )
    if (Path(model) / "adapter_config.json").exists():
        raise TraceError(
            f"{model}: an adapter, which vllm does not read alone; "
            f"first python -m trainers.merge {model}"
        )

    # No code that comes with the weights is run.
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(model, **options)
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(f"{model}: the model cannot be loaded: {error}") from error
    text_config = config.get_text_config()
    ends = _ends_of(model, revision, tokenizer, text_config)

    # The weights are loaded only when there is a shard to write.
    def start(longest_prompt: int) -> Write:
        llm = vllm.LLM(  # pyright: ignore[reportAttributeAccessIssue]
            model=model,
            revision=revision,
            tokenizer_revision=revision,
            dtype=dtype,
            seed=0,
            max_model_len=longest_prompt + sampling.max_new_tokens,
            load_format="safetensors",
            trust_remote_code=False,
            generation_config="vllm",  # vLLM's defaults, nothing of the checkpoint's
        )
        return partial(_write_shard, vllm, llm, sampling, ends)

    made_by = {
        "model": {
            "name": short_name(model),
            "revision": getattr(config, "_commit_hash", None) or "",
            "dtype": dtype,
            "fingerprint": _hash_weights(model),
        },
        "versions": model_versions() | {"vllm": version("vllm")},
    }
    context = getattr(text_config, "max_position_embeddings", None) or 2**31
    return Engine(made_by, tokenizer, ends, context, start)


def _ends_of(model: str, revision: str | None, tokenizer: Any, text_config: Any) -> list[int]:
    from transformers import GenerationConfig

    # Many checkpoints have no generation_config; then the model's configuration has the end token.
    try:
        config = GenerationConfig.from_pretrained(model, revision=revision or "main")
    except OSError:
        config = text_config
    return end_ids(tokenizer, config)


def _hash_weights(model: str) -> str:
    """Hash of the weights of a folder; empty for a repository, whose commit identifies them."""
    paths = sorted(Path(model).glob("*.safetensors"))
    if not paths:
        return ""
    return hash_text("".join(hash_path(path) for path in paths))


def _write_shard(
    vllm: Any, llm: Any, sampling: Sampling, ends: list[int], jobs: list[Job]
) -> Iterator[tuple[Job, list[int]]]:
    """The completions of a shard, whose jobs are ordered by prompt."""
    # vLLM takes a prompt once and counts its samples itself.
    first_jobs = jobs[:: sampling.n]
    prompts = []
    params = []
    for job in first_jobs:
        prompts.append({"prompt_token_ids": job.ids})
        params.append(
            vllm.SamplingParams(
                n=sampling.n,
                seed=sampling.seed_of(job.prompt),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k or -1,
                min_p=0.0,
                repetition_penalty=1.0,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=ends,
                detokenize=False,
            )
        )

    outputs = llm.generate(prompts, params, use_tqdm=False)
    for job, output in zip(first_jobs, outputs, strict=True):
        for completion in output.outputs:
            yield job._replace(sample=completion.index), list(completion.token_ids)
