"""Write completions with vLLM, with the same settings and numbers of samples as transformers."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from cotlens.files import hash_path, model_versions, short_name
from cotlens.models.engine import Job, Sampling, Written, find_end_ids
from cotlens.models.tokenizer import load_tokenizer
from cotlens.trace import TraceError, hash_text


class VllmEngine:
    """A model of a folder or of the Hub, which vLLM runs on the GPUs that it sees.

    The weights are loaded when the first completion is written.

    Args:
        name: a folder or a repository of the Hub.
        revision: branch, tag or commit of the repository.
        dtype: as in `load_model`.
        longest: tokens of the longest prompt and completion together; None: the model's context.
            vLLM keeps room for it.

    Raises:
        TraceError: if vLLM is missing, or the model cannot be loaded by it.
    """

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        dtype: str = "auto",
        longest: int | None = None,
    ) -> None:
        try:
            import vllm  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise TraceError(
                f"the engine vllm cannot be loaded ({error}): install vllm, or take transformers"
            ) from None
        from transformers import AutoConfig

        if (Path(name) / "adapter_config.json").exists():
            raise TraceError(
                f"{name}: an adapter, which vllm does not read alone; "
                f"first python -m trainers.merge {name}"
            )

        # No code that comes with the weights is run.
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(name, **options)
            self.tokenizer = load_tokenizer(name, revision=revision)
        except (OSError, ValueError, KeyError) as error:
            raise TraceError(f"{name}: the model cannot be loaded: {error}") from error

        text_config = config.get_text_config()
        self.name = name
        self.revision = revision
        self.dtype = dtype
        self.longest = longest
        self.commit = getattr(config, "_commit_hash", None) or ""
        self.end_ids = _find_end_ids(name, revision, self.tokenizer, text_config)
        self.context = getattr(text_config, "max_position_embeddings", None) or 2**31
        self.vllm: Any = vllm
        self.model: Any = None

    def describe(self) -> dict[str, Any]:
        """Model and versions: they decide the completions."""
        return {
            "model": {
                "name": short_name(self.name),
                "revision": self.commit,
                "dtype": self.dtype,
                "fingerprint": _hash_weights(self.name),
            },
            "versions": model_versions() | {"vllm": version("vllm")},
        }

    def check(self, sampling: Sampling, prefixes: Sequence[str]) -> None:  # noqa: ARG002
        """Raise TraceError for banned tokens, which vLLM knows as words only, or without a seed."""
        if sampling.banned_ids:
            raise TraceError("vllm cannot ban token ids; take transformers for banned_ids")
        if sampling.seed is None:
            raise TraceError("vllm: give a seed; a sample without one cannot be repeated")

    def write(self, jobs: Sequence[Job], sampling: Sampling) -> Iterator[tuple[Job, Written]]:
        """The completions of all jobs, in the order of the jobs."""
        if self.model is None:
            self.model = self._load()

        # vLLM takes a prompt once and counts its samples itself: those of a prompt are neighbours.
        prompts = []
        params = []
        first_jobs = []
        for _, samples in groupby(jobs, key=lambda job: job.prompt.id):
            job, *others = samples
            first_jobs.append(job)
            prompts.append({"prompt_token_ids": list(job.ids)})
            params.append(self._params(job, sampling, n=1 + len(others)))

        outputs = self.model.generate(prompts, params, use_tqdm=False)
        for job, output in zip(first_jobs, outputs, strict=True):
            for completion in output.outputs:
                number = job.sample + completion.index
                yield job._replace(sample=number), Written(list(completion.token_ids))

    def _load(self) -> Any:
        return self.vllm.LLM(
            model=self.name,
            revision=self.revision,
            tokenizer_revision=self.revision,
            dtype=self.dtype,
            seed=0,
            max_model_len=self.longest,
            load_format="safetensors",
            trust_remote_code=False,
            generation_config="vllm",  # vLLM's defaults, nothing of the checkpoint's
        )

    def _params(self, job: Job, sampling: Sampling, n: int) -> Any:
        """Every setting that shapes the distribution, so that nothing is left to a default."""
        return self.vllm.SamplingParams(
            n=n,
            seed=sampling.seed_of(job.prompt) + job.sample,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k or -1,
            min_p=0.0,
            repetition_penalty=1.0,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=self.end_ids,
            detokenize=False,
        )


def _find_end_ids(name: str, revision: str | None, tokenizer: Any, text_config: Any) -> list[int]:
    from transformers import GenerationConfig

    # Many checkpoints have no generation_config; then the model's configuration has the end token.
    try:
        config = GenerationConfig.from_pretrained(name, revision=revision or "main")
    except OSError:
        config = text_config
    return find_end_ids(tokenizer, config)


def _hash_weights(name: str) -> str:
    """Hash of the weights of a folder; empty for a repository, whose commit identifies them."""
    paths = sorted(Path(name).glob("*.safetensors"))
    if not paths:
        return ""
    return hash_text("".join(hash_path(path) for path in paths))
