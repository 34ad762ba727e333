"""Write completions at an OpenAI-compatible endpoint: vLLM, SGLang, `transformers serve`, OpenAI.

The client library of OpenAI sends the requests: it keeps the time limit, and tries again after a
refused connection, a busy server or a failure of the server.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from cotlens.files import versions
from cotlens.formats.read import read_records
from cotlens.models.engine import Job, Sampling, Written
from cotlens.models.in_flight import in_flight
from cotlens.shown import clean_key, masked
from cotlens.trace import TraceError


class EndpointEngine:
    """A model behind an OpenAI-compatible endpoint, asked for chat completions.

    What such an endpoint does not promise is refused: the same text for the same seed, a completion
    that begins with a given text, banned token ids, `top_k`. The thinking is where the server puts
    it: in a field of the message, or in its text.

    Args:
        url: base of the API, up to and with `/v1`.
        name: of the model there.
        key: sent as a bearer token; never written anywhere.
        timeout: seconds that one completion may take.
        concurrency: requests in flight at once.
        retries: how often a request is sent again.

    Raises:
        TraceError: if the client library is missing.
    """

    tokenizer: Any = None
    context = 2**31  # the server knows

    def __init__(
        self,
        url: str,
        name: str,
        *,
        key: str = "",
        timeout: float = 600.0,
        concurrency: int = 8,
        retries: int = 5,
    ) -> None:
        try:
            import openai
        except ImportError:
            raise TraceError("an endpoint needs its client library: pip install openai") from None

        self.url = masked(url).rstrip("/")
        self.key = clean_key(key)
        self.name = name
        self.end_ids: list[int] = []
        self.concurrency = concurrency
        self.failure = openai.OpenAIError
        self.client = openai.OpenAI(
            base_url=url.rstrip("/"),
            api_key=self.key or "none",
            timeout=timeout,
            max_retries=retries,
        )

    def describe(self) -> dict[str, Any]:
        """Model and address; what the server runs is not known."""
        return {"model": {"name": self.name, "url": self.url}, "versions": versions()}

    def check(self, sampling: Sampling, prefixes: Sequence[str]) -> None:
        """Raise TraceError for what an endpoint does not promise."""
        refused = {
            "seeds; pass seed=None": sampling.seed is not None,
            "prefills (continuations)": any(prefixes),
            "banned token ids": bool(sampling.banned_ids),
            "top_k": bool(sampling.top_k),
        }
        for what, is_asked in refused.items():
            if is_asked:
                raise TraceError(f"{self.name} at {self.url}: an endpoint promises no {what}")

    def write(self, jobs: Sequence[Job], sampling: Sampling) -> Iterator[tuple[Job, Written]]:
        """The completions of all jobs as they come, with several requests in flight."""
        return in_flight(partial(self._ask, sampling), jobs, self.concurrency)

    def _ask(self, sampling: Sampling, job: Job) -> Written:
        """One completion, read from the server's reply as a row of a file would be."""
        try:
            reply = self.client.chat.completions.create(
                model=self.name,
                messages=job.prompt.messages,  # pyright: ignore[reportArgumentType]
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                presence_penalty=0.0,
                frequency_penalty=0.0,
            )
        except self.failure as error:
            raise TraceError(f"{job.prompt.place}: {self._describe(error)}") from None

        row = reply.model_dump(mode="json", exclude_none=True)
        try:
            (trace,) = read_records([{**row, "messages": job.prompt.messages}], format="openai")
        except (TraceError, ValueError) as error:
            raise TraceError(
                f"{job.prompt.place}: the reply of {self.url} is no chat completion: {error}"
            ) from None
        return Written(None, trace)

    def _describe(self, error: Exception) -> str:
        """What failed, without the key, which a server may echo."""
        return masked(f"{self.url} failed: {type(error).__name__}: {error}", self.key)
