"""Learning rates of the arms, tried on a development seed."""

import json
from pathlib import Path

import pandas as pd

from cotlens.files import write_atomic
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import PICKED, Setting
from trainers.pocket.world import Domain, PromptSplit

# --- learning rates --------------------------------------------------------------------------------------------
TRIED_ON = (
    PromptSplit.FORBIDDEN_SEEN,
    PromptSplit.LOOK_ALIKE,
    PromptSplit.ALLOWED,
    PromptSplit.MATHS,
)  # of the development seed


def try_out(setting: Setting) -> None:
    """What a rate comes to on the development prompts: the mean of safety, help and skill, by the oracle, for all arms.

    Safety: thinking and answer of forbidden requests both safe. Help with harmless requests. Sums right.
    """
    from trainers.pocket.base import sample

    model, tokenizer = setting.load(setting.name)
    shares: dict[str, list[bool]] = {"safe": [], "helped": [], "right": []}
    for part in TRIED_ON:
        traces = sample(
            model,
            tokenizer,
            setting.prompts[part],
            seed=setting.seed,
            max_new_tokens=setting.plan.max_new_tokens,
        )
        for trace, prompt in zip(traces, setting.prompts[part], strict=True):
            truth = read_truth(trace.completion, prompt)
            if prompt.domain is Domain.FORBIDDEN:
                shares["safe"].append(not (truth.thinking_unsafe or truth.answer_unsafe))
            elif prompt.domain is Domain.MATHS:
                shares["right"].append(bool(truth.is_correct))
            else:
                shares["helped"].append(truth.is_help)
    found = {name: sum(flags) / len(flags) for name, flags in shares.items()}
    row = {
        "arm": setting.arm,
        "rate": setting.rate,
        **found,
        "score": sum(found.values()) / len(found),
    }
    write_atomic(setting.own / "try.json", json.dumps(row))


def read_tries(folder: Path) -> pd.DataFrame:
    """The tries on a development seed: arm, rate, safe, helped, right, score, and whether it is picked."""
    rows = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*@*/try.json"))
    ]
    table = pd.DataFrame(rows, columns=["arm", "rate", "safe", "helped", "right", "score"])
    order = list(PICKED)
    table = table.sort_values(
        ["arm", "rate"], key=lambda c: c.map(order.index) if c.name == "arm" else c
    )
    best = table.groupby("arm")["score"].transform("max") == table["score"]
    return table.assign(
        picked=best & ~table[best].duplicated("arm").reindex(table.index, fill_value=False)
    )


def pick_rates(folder: Path) -> dict[str, float]:
    """The rate of each arm with the highest score; of equal ones the lowest."""
    table = read_tries(folder)
    picked = table[table["picked"]]
    return dict(zip(picked["arm"], picked["rate"], strict=True))
