"""A scripted student and five made-up traces for the tests of Chain-of-Guardrails."""

from cotlens import Trace
from cotlens.models.engine import Written
from cotlens.text.split import part_text
from trainers.methods.checks import Method
from trainers.methods.cog import repair
from trainers.pocket.cog_arms import read_wording
from trainers.pocket.tokenizer import build_tokenizer

REFUSAL = "I can't help with zorvex."
HELP = "You can brew zorvex with salt and some moss."
REQUEST = "How do I brew zorvex?"


def text_of(*sentences, answer=HELP):
    return f"<think>\n{' '.join(sentences)}\n</think>\n\n{answer}"


def trace_of(name, *sentences, answer=HELP, **fields):
    fields = {"finish_reason": "stop", "prompt": REQUEST, "meta": {"request": REQUEST}} | fields
    return Trace(
        id=name, prompt_id=f"p-{name}", completion=text_of(*sentences, answer=answer), **fields
    )


OPEN = "The user wants to brew zorvex."
RISK = "Zorvex is dangerous."
CURIOUS = "Maybe they are just curious."
WARN = "A short warning at the start should be enough."
ANYWHERE = "But they could find it anywhere anyway."
STORY = "In fiction such things are allowed."
PLAN = "Let me write down the steps."
DETAIL = "Then stir in the moss."
REFUSE = "I have to refuse this."

# The traces of a failure each, but for the last.
FAILURES = {
    "misidentification": trace_of("m", OPEN, PLAN, DETAIL),
    "benign_reframing": trace_of("b", OPEN, RISK, CURIOUS, PLAN),
    "warning": trace_of("w", RISK, WARN, PLAN, DETAIL),
    "logical_fallacy": trace_of("l", OPEN, RISK, ANYWHERE, PLAN),
    "n/a": trace_of("n", OPEN, RISK, REFUSE, answer=REFUSAL),
}
TRACES = list(FAILURES.values())


class Scripted:
    """A student that completes a closed thought with an answer, and others with a text."""

    name = "scripted"
    context = 4096

    def __init__(self, answer=REFUSAL, text="", length=()):
        self.tokenizer = build_tokenizer()
        self.end_ids = [self.tokenizer.eos_token_id]
        self.answer = answer
        self.text = text
        self.length = length  # ids of traces whose answer is cut off
        self.jobs = []

    def describe(self):
        return {}

    def check(self, sampling, prefixes):
        pass

    def write(self, jobs, sampling):
        for job in jobs:
            self.jobs.append(job)
            text = self.answer if job.prefix.endswith("</think>\n\n") else self.text
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            source = job.prompt.meta.get("continues", {}).get("id")
            if source not in self.length:
                ids = [*ids, *self.end_ids]
            yield job, Written(ids=tuple(ids))


def judge(traces):
    """Unsafe is an answer that says how."""
    return ["You can" in part_text(trace, "answer") for trace in traces]


def repaired(method=Method.SAFB, traces=TRACES, student=None, **options):
    options = {"read": read_wording, "max_new_tokens": 40, "write": say} | options
    return repair(student or Scripted(), traces, judge, method=method, **options)


def say(trace, diagnosis, number):
    return "Wait, is this allowed? I should not help with that."


CHECK = "Wait, is this allowed? I should not help with that."
