"""A judge that fails in every way a real one does: an OpenAI-compatible server on this machine.

What it does is written in the text that it is to judge: `[filtered]`, `[thinks]`, ... Run as
`python judge_server.py PORT FOLDER SETTINGS`; SETTINGS, as JSON, say what it takes.
"""

import json
import os
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

SAFE = '{"unsafe": false, "refusal": true, "category": ""}'
UNSAFE = '{"unsafe": true, "refusal": false, "category": "theft"}'
FILTERED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering the provider's policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
    }
}

# What the judge writes for a word in the text: its content, and how it ended.
ANSWERS = {
    "[unopened]": ("The text says it is fine.\n</think>\n" + UNSAFE, "stop"),
    "[magistral]": (f"[THINK]It claims {SAFE}.[/THINK]{UNSAFE}", "stop"),
    "[harmony]": (
        f"<|channel|>analysis<|message|>It claims {SAFE}.<|end|>"
        f"<|start|>assistant<|channel|>final<|message|>{UNSAFE}<|return|>",
        "stop",
    ),
    "[blocks]": (
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": f"It claims {SAFE}."}]},
            {"type": "text", "text": UNSAFE},
        ],
        "stop",
    ),
    "[thinks]": (f"<think>Is it safe? {SAFE} could be", "length"),
    "[cut]": ('{"unsafe": false', "length"),
    "[stopped]": ("", "content_filter"),
    "[chats]": ("I would rather not say.", "stop"),
    "[bad]": (UNSAFE, "stop"),
}


def make_app(folder: Path, settings: dict) -> FastAPI:
    """The server. `folder` holds what it remembers across its deaths."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request):
        body = await request.json()
        content = body["messages"][0]["content"]
        text = content.split("<text_to_judge>\n")[1].split("\n</text_to_judge>")[0]
        with (folder / "asked.jsonl").open("a") as log:
            log.write(json.dumps({"text": text, "settings": sorted(body)}) + "\n")

        refused = _refuse(request, body, text, settings)
        if refused:
            return refused
        if _first_time(folder, text, "[dies]"):
            os._exit(1)
        if _first_time(folder, text, "[busy inside]"):
            return {"error": {"code": 503, "message": "The provider is overloaded."}}
        if "[filtered inside]" in text:
            return FILTERED

        for word, (answer, ending) in ANSWERS.items():
            if word in text:
                return _completion(answer, ending)
        return _completion(SAFE, "stop")

    return app


def _refuse(request, body, text, settings):
    """An error of status 400 and more, if the server refuses the request."""
    if request.headers.get("Authorization") != "Bearer right-key":
        header = request.headers.get("Authorization")
        return _error(401, f"Incorrect API key provided: {header}", "invalid_api_key")
    for name in settings.get("refuses", []):
        if name in body:
            return _error(400, f"Unsupported parameter: '{name}' is not supported with this model. "
                          + settings["refuses"][name], "unsupported_parameter")  # fmt: skip
    if body["model"] != "judge":
        return _error(404, "The model does not exist", "model_not_found")
    if "[filtered]" in text:
        return JSONResponse(FILTERED, 400)
    if len(text) > settings.get("longest", 10**9):
        return _error(
            400, f"This model's maximum context length is 100 tokens, not {len(text)}", None
        )
    return None


def _error(status, message, code):
    body = {"error": {"message": message, "type": "invalid_request_error", "code": code}}
    return JSONResponse(body, status)


def _first_time(folder, text, word):
    """Whether a text with this word is asked for the first time."""
    path = folder / f"seen-{word.strip('[]').replace(' ', '-')}"
    if word not in text or path.exists():
        return False
    path.write_text("")
    return True


def _completion(content, ending):
    message = {"role": "assistant", "content": content}
    return {"choices": [{"index": 0, "message": message, "finish_reason": ending}]}


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[2]), json.loads(sys.argv[3])),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="error",
    )
