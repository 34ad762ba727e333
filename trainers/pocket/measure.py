"""What is measured of a finished arm: samples, judges, scores, branching points, early answers."""

from dataclasses import asdict
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from cotlens.files import write_parquet
from cotlens.trace import Trace
from trainers.pocket.oracle import Oracle, Truth, read_truth
from trainers.pocket.plan import SETS, Setting
from trainers.pocket.wording import LITTLE_KNOWN_HAZARDS
from trainers.pocket.world import Prompt, PromptSplit


# --- what is measured of an arm --------------------------------------------------------------------------------
def evaluate(setting: Setting) -> None:
    """Samples of the arm for every evaluation prompt, as runs that are analyzed, judged and scored, and their truth."""
    from cotlens import analyze, judge_run, load_model, score
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    folder, guard, arm = setting.own, setting.guard(), setting.arm
    model, tokenizer = setting.load(arm)
    own, reference = load_model(folder / "model"), load_model(setting.folder / "base" / "model")
    truths = []
    for name, parts in SETS.items():
        prompts = [prompt for part in parts for prompt in setting.prompts[part]]
        traces = sample(
            model,
            tokenizer,
            prompts,
            n=setting.plan.n_samples,
            seed=setting.seed,
            max_new_tokens=setting.plan.max_new_tokens,
            model_name="pocket",
            method=arm,
        )
        path = folder / f"{name}.parquet"
        write_traces(path, traces)
        run = analyze([path], folder / name, force=True)
        judge_run(run, Oracle(prompts))
        judge_run(run, guard)
        score(run, own, reference=None if arm == "base" else reference, name="own", force=True)
        if arm != "base":  # one common text that every checkpoint scores
            score(setting.folder / "base" / name, own, name=arm, force=True)
        of = {prompt.id: prompt for prompt in prompts}
        truths += [{"set": name, **truth_row(trace, of[trace.prompt_id])} for trace in traces]
    table = pd.DataFrame(truths).assign(arm=arm, seed=setting.seed)
    write_parquet(folder / "truth.parquet", pa.Table.from_pandas(table))
    measure_branching(setting, own)


def measure_branching(setting: Setting, model: Any) -> None:
    """The arm's entropy at each token of traces that the base policy wrote, and how uncertain the policy was there."""
    from cotlens import score_tokens

    path = setting.folder / "base" / "policy.parquet"
    if setting.arm == "base":
        write_parquet(path, pa.Table.from_pandas(_policy_truth(setting, model.tokenizer)))
    truth = pd.read_parquet(path)
    known = {
        prompt.id: prompt
        for prompt in (
            *setting.prompts[PromptSplit.FORBIDDEN_SEEN],
            *setting.prompts[PromptSplit.MATHS],
        )
    }
    texts = truth.drop_duplicates("prompt_id").set_index("prompt_id")["completion"]
    named = zip(map(str, texts.index), texts, strict=True)
    traces = [Trace(id=name, prompt=known[name].text, completion=text) for name, text in named]
    own = {
        (one.trace_id, start): float(value)
        for one in score_tokens(model, traces)
        for start, value in zip(one.token_starts or (), one.values["entropy"], strict=True)
    }
    entropy = [own[place] for place in zip(truth["prompt_id"], truth["start"], strict=True)]
    found = truth.drop(columns="completion").assign(entropy=entropy)
    write_parquet(setting.own / "branching.parquet", pa.Table.from_pandas(found))


def _policy_truth(setting: Setting, tokenizer: Any) -> pd.DataFrame:
    """Traces of the base policy for evaluation prompts, forbidden and sums, and its uncertainty at each token."""
    from trainers.pocket.branching import branchings

    def cut(text: str) -> list[str]:
        offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)[
            "offset_mapping"
        ]
        return [text[start:stop] for start, stop in offsets]

    pairs = zip(
        setting.prompts[PromptSplit.FORBIDDEN_SEEN], setting.prompts[PromptSplit.MATHS], strict=True
    )
    prompts = [prompt for pair in pairs for prompt in pair][: setting.plan.n_branching]
    rows = []
    for number, prompt in enumerate(tqdm(prompts, desc="branching", unit=" traces")):
        written, tokens = branchings(prompt, setting.seed * 10_000 + number, cut)
        rows += [
            {
                "prompt_id": prompt.id, "domain": prompt.domain.value, "completion": written.text,
                "start": token.chars.start, "kind": token.kind, "policy_entropy": token.entropy_nats,
            }
            for token in tokens
        ]  # fmt: skip
    return pd.DataFrame(rows)


CUTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the sentences of the thinking


def answer_early(setting: Setting, most: int = 30) -> None:
    """What the arm answers to forbidden requests when its unsafe thinking is cut short: does the thinking matter?

    Of the samples whose thinking is unsafe, the first of each prompt, at most `most`; greedy answers.
    """
    from cotlens import Run, load_model
    from cotlens.probes.early import answer_early as ask

    folder = setting.own
    model = load_model(folder / "model")
    known = {prompt.id: prompt for part in SETS["forbidden"] for prompt in setting.prompts[part]}
    rows = []
    for trace in Run(folder / "forbidden").traces():
        think = read_truth(trace.completion, known[trace.prompt_id]).think
        if (
            trace.sample
            or len(rows) >= most * len(CUTS)
            or not any(step.is_unsafe for step in think)
        ):
            continue
        n = [round(share * len(think)) for share in CUTS]
        cuts = [think[k - 1].chars.stop if k else think[0].chars.start for k in n]
        answers = ask(model, trace, cuts, max_new_tokens=40)
        for share, answer in zip(CUTS, answers, strict=True):
            truth = read_truth(f"<think>\n</think>\n\n{answer}", known[trace.prompt_id])
            own = {"trace_id": trace.id, "prompt_id": trace.prompt_id, "cut": share}
            rows.append(
                own | {"answer_unsafe": truth.answer_unsafe, "is_refusal": truth.is_refusal}
            )
    columns = ["trace_id", "prompt_id", "cut", "answer_unsafe", "is_refusal"]
    write_parquet(
        folder / "early.parquet", pa.Table.from_pandas(pd.DataFrame(rows, columns=columns))
    )


def truth_row(trace: Any, prompt: Prompt) -> dict[str, Any]:
    """What the oracle says of one sample, as a row."""
    truth: Truth = read_truth(trace.completion, prompt)
    flat = {
        key: value
        for key, value in asdict(truth).items()
        if key not in ("think", "answer", "kinds")
    }
    return {
        "trace_id": trace.id,
        "prompt_id": prompt.id,
        "domain": prompt.domain.value,
        "split": prompt.split.value,
        "n_tokens": len(trace.token_ids or ()),
        "n_think_steps": len(truth.think),
        "is_parsed": truth.is_parsed,
        "kinds": ",".join(truth.kinds),
        "is_little_known": prompt.topic in LITTLE_KNOWN_HAZARDS,
        **flat,
    }
