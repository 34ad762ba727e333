"""One request to an OpenAI-compatible server: what it answers, and the ways in which it fails.

A server says no in many words. What it says decides what happens: a text that is too long is sent
in parts, a text that a content filter stopped is undecided, a setting that the server does not know
is left out, a server that is busy is asked again, and everything else ends the job at once.
"""

import json
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from enum import Enum
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple

from cotlens.shown import clean_key, masked
from cotlens.trace import TraceError

# A request is sent again after a timeout, when the server is busy or broken, and after an answer
# that is not a chat completion.
RETRIES = 5
FIRST_WAIT = 1.0  # seconds before the first retry; each further one waits twice as long
_LONGEST_WAIT = 60  # seconds that a server can ask for in `Retry-After`
_LONGEST_ANSWER = 2**20  # bytes
_LONGEST_ERROR = 2**14  # bytes of an error that are read
_LONGEST_REASON = 300  # characters of an error that are shown


class Reply(NamedTuple):
    """What a model wrote, and why it decides nothing; an empty reason if it is whole."""

    text: str
    reason: str = ""


class Failure(Enum):
    """What a server means by an error."""

    FILTERED = "content filter"  # it does not pass this text on to the model
    TOO_LONG = "too long"
    UNSUPPORTED = "unsupported"  # it does not know a setting of the request
    BUSY = "busy"  # or broken: the same request may work later
    FINAL = "final"  # a wrong key, model or setting stays wrong


class RequestError(Exception):
    """A request failed in a way that the caller can act on.

    Attributes:
        failure: what the server means.
        setting: the setting that it does not support.
    """

    def __init__(self, failure: Failure, reason: str, setting: str = "") -> None:
        super().__init__(reason)
        self.failure = failure
        self.setting = setting


class Server:
    """An OpenAI-compatible server.

    Args:
        url: base of the API, up to and with `/v1`.
        key: sent as a bearer token; never written anywhere.
        timeout: seconds that one request may take.
        on_retry: called with the reason before a request is sent again.

    Attributes:
        gives_up: set by another thread: a request that failed is not sent again.

    Raises:
        TraceError: if the address is not one, or carries a password.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str = "",
        timeout: float = 60.0,
        on_retry: Callable[[str], None] | None = None,
    ) -> None:
        self.url = _checked_url(url)
        self.key = clean_key(key)
        self.timeout = timeout
        self.on_retry = on_retry
        self.gives_up = threading.Event()

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """Return the model's reply to the body of a chat completion.

        Raises:
            RequestError: if the text is too long or filtered, or a setting is not supported.
            TraceError: if no attempt is answered, or the error makes a retry useless.
        """
        reason = ""
        wait = FIRST_WAIT
        for attempt in range(RETRIES + 1):
            # Not the first attempt: wait, each time twice as long.
            if attempt > 0:
                if self.on_retry:
                    self.on_retry(reason)
                if self.gives_up.wait(wait):
                    break
                wait *= 2

            try:
                return read_reply(self._post(body))
            except _StatusError as error:
                status = error.status
                said = error.said
                wait = max(wait, error.wait)
            except _InnerError as error:
                status = error.status
                said = error.said
            except _NO_COMPLETION as error:
                reason = self._mask(f"{type(error).__name__}: {error}")
                continue

            where = f"status {status}" if status else "an error inside a response"
            reason = self._mask(f"{where}: {said}")
            failure, setting = judge_error(status, said, body)
            if failure is Failure.FINAL:
                break
            if failure is not Failure.BUSY:
                raise RequestError(failure, reason, setting)

        raise TraceError(f"{self.url}: the judge {body['model']} did not answer: {reason}")

    def _post(self, body: Mapping[str, Any]) -> bytes:
        """Return the response to one request, at most a megabyte within `timeout` seconds."""
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        address = self.url + "/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)

        # The timeout of `open` is for each read; the deadline is for all of the exchange.
        with _Deadline(self.timeout) as deadline:
            opener = urllib.request.build_opener(
                _NoRedirects, _WatchedHttp(deadline), _WatchedHttps(deadline)
            )
            try:
                with opener.open(request, timeout=self.timeout) as response:
                    return _read_whole(response)
            except urllib.error.HTTPError as error:
                said = _body_of(error)
                raise _StatusError(error.code, said, _wait_asked_for(error.headers)) from None

    def _mask(self, reason: str) -> str:
        """Return the beginning of a reason without the key, which a server may repeat."""
        # First the key, then the length: half a key would stay otherwise.
        return masked(reason, self.key)[:_LONGEST_REASON]


def _checked_url(url: str) -> str:
    """Return an address without a slash at its end.

    Raises:
        TraceError: if it is not the address of an API, or carries a password or a key.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", url)
        )
    except ValueError:
        is_address = False

    if not is_address:
        raise TraceError(
            "expected the address of an OpenAI-compatible API, such as http://localhost:8000/v1, "
            f"got {masked(url)!r}"
        )
    if parts.username or parts.password or parts.query:
        raise TraceError(
            "the address of a judge must not carry a password or a key: it is written to run.json"
        )
    return url.rstrip("/")


# --- replies --------------------------------------------------------------------------------------

# There is no response, or it is not a chat completion.
_NO_COMPLETION = (
    OSError,
    HTTPException,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)


_NO_STATUS = 0  # of an error inside a response that names none


class _InnerError(Exception):
    """A response of status 200 that holds an error, as OpenRouter sends it."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


def read_reply(response_body: bytes) -> Reply:
    """Return the reply in a chat completion: its text, without blocks of thinking.

    Raises:
        _InnerError: if the response or its choice is an error.
        LookupError, TypeError, ValueError, AttributeError: if it is no chat completion.
    """
    completion = json.loads(response_body)
    if completion.get("error"):
        raise _inner_error(completion["error"])
    choice = completion["choices"][0]
    if choice.get("error"):
        raise _inner_error(choice["error"])

    message = choice["message"]
    text = _text_of(message.get("content"))
    ending = choice.get("finish_reason")
    if ending == "error":
        raise _InnerError(_NO_STATUS, "the choice ended in an error")
    if ending == "length":
        return Reply(text, "the judge's answer was cut off at its limit of tokens")
    if ending == "content_filter":
        return Reply(text, "a content filter stopped the judge's answer")
    if message.get("refusal"):
        return Reply(str(message["refusal"]), "the judge refused to answer")
    return Reply(text)


def _text_of(content: Any) -> str:
    """Return the text of a message, whose content may be a list of typed blocks."""
    if not isinstance(content, list):
        return str(content or "")

    texts = []
    for block in content:
        if isinstance(block, str):
            texts.append(block)
        elif block.get("type") in ("text", "output_text"):
            texts.append(str(block.get("text") or ""))
    return "\n".join(texts)


def _inner_error(error: Any) -> _InnerError:
    """Return the error that a response holds, with the status it names; `_NO_STATUS` if none."""
    said = json.dumps({"error": error}, ensure_ascii=False)
    if isinstance(error, dict):
        for name in ("code", "status"):
            status = str(error.get(name, ""))
            if re.fullmatch(r"[45]\d\d", status, re.ASCII):
                return _InnerError(int(status), said)
    return _InnerError(_NO_STATUS, said)


class _StatusError(Exception):
    """A response with the status of an error.

    Attributes:
        status: of the response.
        said: the beginning of its body.
        wait: seconds that the server asks to wait; 0 if it does not.
    """

    def __init__(self, status: int, said: str, wait: float) -> None:
        super().__init__(said)
        self.status = status
        self.said = said
        self.wait = wait


# --- the exchange ---------------------------------------------------------------------------------


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: it would carry the key to another address."""

    def redirect_request(self, *_: Any) -> None:
        return None


class _Deadline:
    """Ends an exchange when its time is up, whatever it is waiting for.

    A server that sends a byte now and then keeps every single read within its timeout.

    Raises:
        TimeoutError: where the block ends after the deadline, with an error or without.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.has_passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def watch(self, connection: socket.socket) -> None:
        """Shuts this connection at the deadline."""
        self._sockets.append(connection)

    def _end(self) -> None:
        self.has_passed = True
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "_Deadline":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self.has_passed:
            raise TimeoutError(f"no whole answer within {self.seconds:g} seconds") from None


class _WatchedHttp(urllib.request.HTTPHandler):
    """Plain connections that end at a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def http_open(self, request: urllib.request.Request) -> Any:
        """Opens the connection."""
        return self.do_open(_watched(HTTPConnection, self.deadline), request)


class _WatchedHttps(urllib.request.HTTPSHandler):
    """Encrypted connections that end at a deadline."""

    def __init__(self, deadline: _Deadline) -> None:
        super().__init__()
        self.deadline = deadline

    def https_open(self, request: urllib.request.Request) -> Any:
        """Opens the connection."""
        return self.do_open(_watched(HTTPSConnection, self.deadline), request)


def _watched(kind: type[HTTPConnection], deadline: _Deadline) -> Any:
    """A class of connections whose sockets end at the deadline."""

    class Watched(kind):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    return Watched


def _read_whole(response: Any) -> bytes:
    """The body of a response, at most a megabyte."""
    body = bytearray()
    while piece := response.read1(65536):
        body += piece
        if len(body) > _LONGEST_ANSWER:
            raise ValueError("the answer is longer than a megabyte")
    return bytes(body)


# --- errors ---------------------------------------------------------------------------------------

_BUSY_STATUSES = (408, 409, 425, 429)
_FILTERED = re.compile(
    r"(?i)content[ _-]?(?:filter|polic|management|moderation|safety|inspection)|responsible_?ai"
    r"|safety[ _-](?:system|filter|setting|polic|reason|check)|moderation|usage polic"
    r"|polic(?:y|ies)[ _-]violat|violat\w* .{0,60}polic|data_?inspection|prohibited[ _-]content"
    r"|(?:inappropriate|sensitive|harmful|unsafe) (?:content|words?)|\bflagged\b|blocklist"
    r"|(?:prompt|request|content|input|response) (?:was |has been |is )?blocked"
)
_ABOUT_THE_ACCOUNT = re.compile(r"(?i)api[ _-]?key|\baccount\b|billing|quota|\bpermission\b")
_TOO_LONG = re.compile(
    r"(?i)context[ _-]?(?:length|window|size)|maximum (?:context|input|prompt|sequence|model|number"
    r" of tokens)|max\w*[ _](?:model|seq\w*|input|position\w*)[ _]?len|too many (?:input |prompt )?"
    r"tokens|(?:prompt|input|request|messages?|text|sequence|payload|body|entity)\W.{0,40}"
    r"too (?:long|large)|too long|string_above_max|reduce the length|longer than|n_ctx"
    r"|exceed\w*.{0,60}(?:tokens?|length|context)|(?:tokens?|length).{0,60}exceed"
)
_NOT_SUPPORTED = re.compile(
    r"(?i)not[ _](?:support|permit|allow|available|implement)|unsupport|unrecogni|unknown|extra"
    r"|unexpected|invalid|use '?max_completion_tokens|use '?max_tokens"
)
_FINAL = re.compile(r"(?i)invalid|authenti|unauthori|not[_ ]found|does not exist|api[_ ]?key|quota")
# The settings that a request can do without, or has another name for.
_SETTINGS = ("response_format", "max_completion_tokens", "max_tokens", "temperature")
_ALSO_CALLED = {"response_format": ("json_schema", "structured output", "guided", "grammar")}
# Where servers put what they say. What they repeat of the request is data, and not read.
_SAID_UNDER = ("error", "message", "msg", "code", "type", "param", "loc", "detail", "innererror",
               "status", "reason", "metadata", "raw")  # fmt: skip
_DEPTH = 6


def judge_error(status: int, said: str, body: Mapping[str, Any]) -> tuple[Failure, str]:
    """Return what a server means by an error, and the setting that it does not support.

    Args:
        status: of the response, or the one that an error inside a 200 names; 0 if it names none.
        said: what the server sent.
        body: of the request.
    """
    text = _words_of(said)
    is_client_error = 400 <= status < 500 and status not in (401, 407, *_BUSY_STATUSES)
    is_refusal = is_client_error or status == _NO_STATUS
    if is_refusal and _FILTERED.search(text) and not _ABOUT_THE_ACCOUNT.search(text):
        return Failure.FILTERED, ""
    if status == 413 or (status in (_NO_STATUS, 400, 422) and _TOO_LONG.search(text)):
        return Failure.TOO_LONG, ""

    # Some servers break on a setting that they do not know: status 500.
    if is_refusal or status in (500, 501):
        setting = _unsupported_setting(text, body)
        if setting:
            return Failure.UNSUPPORTED, setting
    is_unclear = status == _NO_STATUS and not _FINAL.search(text)
    if is_unclear or status in _BUSY_STATUSES or status >= 500:
        return Failure.BUSY, ""
    return Failure.FINAL, ""


def _unsupported_setting(text: str, body: Mapping[str, Any]) -> str:
    """Return the setting of a request that a server says it does not support; empty if none."""
    if not _NOT_SUPPORTED.search(text):
        return ""
    places = {}
    for setting in _SETTINGS:
        names = (setting, *_ALSO_CALLED.get(setting, ()))
        if setting in body:
            found = [text.lower().find(name) for name in names]
            places[setting] = min([place for place in found if place >= 0], default=-1)

    # The one that is named first: "max_tokens is not supported, use max_completion_tokens".
    named = {setting: place for setting, place in places.items() if place >= 0}
    return min(named, key=lambda setting: named[setting]) if named else ""


def _words_of(said: str) -> str:
    """Return what a server says itself in an error, without what it repeats of the request."""
    try:
        error = json.loads(said)
    except (ValueError, RecursionError):
        return said[:2000]
    texts: list[str] = []
    _collect(error, texts, _DEPTH)
    return " | ".join(texts)[:4000]


def _collect(value: Any, texts: list[str], depth: int) -> None:
    if isinstance(value, dict) and depth > 0:
        for name, inner in value.items():
            if name in _SAID_UNDER:
                _collect(inner, texts, depth - 1)
    elif isinstance(value, list) and depth > 0:
        for inner in value[:20]:
            _collect(inner, texts, depth - 1)
    elif isinstance(value, str | int):
        texts.append(str(value)[:1000])


def _body_of(error: urllib.error.HTTPError) -> str:
    """Return what the server sent with an error, up to a length."""
    try:
        return error.read(_LONGEST_ERROR).decode(errors="replace")
    except (OSError, HTTPException):
        return ""


def _wait_asked_for(headers: Message) -> float:
    """Return the seconds that the server asks to wait, as a number or a date; 0 if it does not."""
    asked = str(headers.get("Retry-After", "")).strip()
    if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", asked, re.ASCII):
        return min(float(asked), _LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(asked)
    except (ValueError, TypeError):
        return 0.0
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT)
