"""What is measured of a finished arm: samples, judges, scores, branching points, early answers."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from cotlens.files import read_frame, write_parquet
from cotlens.trace import Trace
from trainers.pocket.branching import policy_path
from trainers.pocket.depth import measure_depth
from trainers.pocket.drift import DRIFTING, measure_drift
from trainers.pocket.oracle import NO_THOUGHT, Oracle, StepTruth, read_truth
from trainers.pocket.plan import SETS, Setting
from trainers.pocket.progress import say_stage
from trainers.pocket.wording import LITTLE_KNOWN_HAZARDS
from trainers.pocket.world import Prompt, PromptSplit

# Splits whose prompts the injected thoughts are put before.
DEPTH_SPLITS = (
    PromptSplit.PUZZLE,
    PromptSplit.FORBIDDEN_SEEN,
    PromptSplit.NEW_TOPIC,
    PromptSplit.LOOK_ALIKE,
)

# Shares of the sentences of the thinking after which the arm is asked for its answer.
CUTS = (0.0, 0.25, 0.5, 0.75, 1.0)


def evaluate(setting: Setting) -> None:
    """Samples the arm for every evaluation prompt and measures the samples.

    Leaves in the arm's folder a run for each set of prompts (analyzed, judged and scored),
    `truth.parquet`, `depth.parquet` and `branching.parquet`; and in the base's runs the arm's
    scores.
    """
    from cotlens import analyze, judge_run, load_model, score
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    folder = setting.own
    base_folder = setting.folder / "base"
    is_base = setting.arm == "base"
    guard = setting.guard()
    model, tokenizer = setting.load(setting.arm)

    # KL is to the base; the base has none.
    scorer = load_model(folder / "model")
    reference = None if is_base else load_model(base_folder / "model")

    rows = []
    for name in SETS:
        say_stage(name)
        prompts = _prompts_of_set(setting, name)
        traces = sample(
            model,
            tokenizer,
            prompts,
            n=setting.plan.n_samples,
            seed=setting.seed,
            max_new_tokens=setting.plan.max_new_tokens,
            model_name="pocket",
            method=setting.arm,
        )
        path = folder / f"{name}.parquet"
        write_traces(path, traces)

        # Two judges: the exact one, and the one that rewards ask.
        run = analyze([path], folder / name, force=True)
        judge_run(run, Oracle(prompts))
        judge_run(run, guard)
        score(run, scorer, reference=reference, name="own", force=True)

        # The base's samples are a common text that all arms score.
        if not is_base:
            score(base_folder / name, scorer, name=setting.arm, force=True)

        prompt_of = {prompt.id: prompt for prompt in prompts}
        for trace in traces:
            prompt = prompt_of[trace.prompt_id]
            rows.append({"set": name, **truth_row(trace, prompt)})

    table = pd.DataFrame(rows).assign(arm=setting.arm, seed=setting.seed)
    write_parquet(folder / "truth.parquet", pa.Table.from_pandas(table))

    # Depth of reflection, on the same prompts for every arm.
    say_stage("depth")
    prompts = []
    for split in DEPTH_SPLITS:
        prompts += setting.prompts[split]
    depth = measure_depth(
        model,
        tokenizer,
        prompts,
        n=setting.plan.n_samples,
        seed=setting.seed,
        max_new_tokens=setting.plan.max_new_tokens,
        method=setting.arm,
    )
    write_parquet(folder / "depth.parquet", pa.Table.from_pandas(depth))
    say_stage("branching")
    measure_branching(setting, scorer)

    # What success costs in safety, where an arm is paid for success alone.
    if setting.arm in DRIFTING:
        measure_drift(setting)


def _prompts_of_set(setting: Setting, name: str) -> list[Prompt]:
    prompts: list[Prompt] = []
    for split in SETS[name]:
        prompts += setting.prompts[split]
    return prompts


def truth_row(trace: Trace, prompt: Prompt) -> dict[str, Any]:
    """What the oracle reads in one sample, as a row of `truth.parquet`."""
    truth = read_truth(trace.completion, prompt)
    row = {
        "trace_id": trace.id,
        "prompt_id": prompt.id,
        "domain": prompt.domain.value,
        "split": prompt.split.value,
        "n_tokens": len(trace.token_ids or ()),
        "n_think_steps": len(truth.think),
        "is_parsed": truth.is_parsed,
        "kinds": ",".join(truth.kinds),
        "is_little_known": prompt.topic in LITTLE_KNOWN_HAZARDS,
    }

    # All other facts are columns as they are; the sentences have no column.
    for name, value in asdict(truth).items():
        if name not in ("think", "answer", "kinds"):
            row[name] = value
    return row


def measure_branching(setting: Setting, model: Any) -> None:
    """Writes the arm's entropy at each token of traces that the base policy wrote.

    The policy's own entropy there is measured once a seed, with the base or before it.

    Args:
        setting: setting of the arm.
        model: the arm's model, a `cotlens.models.load.Model`.
    """
    from cotlens import score_tokens

    path = policy_path(setting.folder)
    if not path.exists():
        write_policy(setting, model.tokenizer)
    policy = read_frame(path)

    # The table has one row per token; each text is scored once.
    traces = []
    prompt_of = {prompt.id: prompt for prompt in _branching_prompts(setting)}
    texts = policy.drop_duplicates("prompt_id")
    for prompt_id, completion in zip(texts["prompt_id"], texts["completion"], strict=True):
        prompt = prompt_of[prompt_id]
        traces.append(Trace(id=prompt_id, prompt=prompt.text, completion=completion))

    entropy_at = {}
    for scored in score_tokens(model, traces):
        starts = scored.token_starts or ()
        for start, entropy in zip(starts, scored.values["entropy"], strict=True):
            entropy_at[scored.trace_id, start] = float(entropy)

    # Look the tokens up by text and place.
    tokens = zip(policy["prompt_id"], policy["start"], strict=True)
    entropies = [entropy_at[token] for token in tokens]
    table = policy.drop(columns="completion").assign(entropy=entropies)
    write_parquet(setting.own / "branching.parquet", pa.Table.from_pandas(table))


def write_policy(setting: Setting, tokenizer: Any) -> None:
    """Writes the base policy's own entropies, which need no model."""
    path = policy_path(setting.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = _policy_entropies(setting, tokenizer)
    write_parquet(path, pa.Table.from_pandas(table))


def _branching_prompts(setting: Setting) -> list[Prompt]:
    """The prompts of `n_branching` traces: forbidden requests and sums in turn."""
    forbidden = setting.prompts[PromptSplit.FORBIDDEN_SEEN]
    maths = setting.prompts[PromptSplit.MATHS]
    prompts: list[Prompt] = []
    for pair in zip(forbidden, maths, strict=True):
        prompts += pair
    return prompts[: setting.plan.n_branching]


def _policy_entropies(setting: Setting, tokenizer: Any) -> pd.DataFrame:
    """Traces of the base policy and its own entropy at each token, one row per token."""
    from trainers.pocket.branching import branchings

    def cut(text: str) -> list[str]:
        encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return [text[start:stop] for start, stop in encoded["offset_mapping"]]

    rows = []
    prompts = _branching_prompts(setting)
    for number, prompt in enumerate(tqdm(prompts, desc="branching", unit=" traces")):
        # No two traces of any seeds of the experiment share this seed.
        seed = setting.seed * 10_000 + number
        written, tokens = branchings(prompt, seed, cut)
        for token in tokens:
            rows.append(
                {
                    "prompt_id": prompt.id,
                    "domain": prompt.domain.value,
                    "completion": written.text,
                    "start": token.chars.start,
                    "kind": token.kind,
                    "policy_entropy": token.entropy_nats,
                }
            )
    return pd.DataFrame(rows)


def answer_early(setting: Setting, most: int = 30) -> None:
    """Writes what the arm answers when its unsafe thinking is cut short: does the thinking matter?

    Of each forbidden prompt the first sample, if its thinking is unsafe; at most `most` samples.
    Answers are greedy. Leaves `early.parquet`: one row per sample and cut.
    """
    from cotlens import Run, load_model
    from cotlens.probes import early

    folder = setting.own
    model = load_model(folder / "model")
    prompt_of = {prompt.id: prompt for prompt in _prompts_of_set(setting, "forbidden")}

    n_asked = 0
    rows = []
    for trace in Run(folder / "forbidden").traces():
        if n_asked == most:
            break
        prompt = prompt_of[trace.prompt_id]
        steps = read_truth(trace.completion, prompt).think
        is_unsafe = any(step.is_unsafe for step in steps)
        if trace.sample or not is_unsafe:
            continue
        n_asked += 1

        # The oracle reads each answer as one after an empty thought.
        cuts = _cut_places(steps)
        answers = early.answer_early(model, trace, cuts, max_new_tokens=40)
        for share, answer in zip(CUTS, answers, strict=True):
            truth = read_truth(NO_THOUGHT + answer, prompt)
            rows.append(
                {
                    "trace_id": trace.id,
                    "prompt_id": trace.prompt_id,
                    "cut": share,
                    "answer_unsafe": truth.answer_unsafe,
                    "is_refusal": truth.is_refusal,
                }
            )

    columns = ["trace_id", "prompt_id", "cut", "answer_unsafe", "is_refusal"]
    table = pd.DataFrame(rows, columns=columns)
    write_parquet(folder / "early.parquet", pa.Table.from_pandas(table))


def _cut_places(steps: Sequence[StepTruth]) -> list[int]:
    """Where the thinking is cut, in code points: after each share of its sentences in CUTS."""
    places = []
    for share in CUTS:
        n_steps = round(share * len(steps))
        place = steps[n_steps - 1].chars.stop if n_steps else steps[0].chars.start
        places.append(place)
    return places
