"""What does a student gain from the data of each teacher?

The question is ThinkSafe's (arXiv 2601.23143). A student is its own
teacher on the diagonal; the paper's point is that data of a larger or a foreign teacher costs more
skill than own data.
"""

import math

import pandas as pd

from cotlens.measures.groups import need_columns


def teacher_gains(table: pd.DataFrame) -> pd.DataFrame:
    """The gain of every student with the data of every teacher.

    Args:
        table: one row per training: `teacher`, `student`, `value` (a measure of the student after
            training, safety or skill) and `before` (the same of the student before).

    Returns:
        teacher, student, `gain` (value less before) and `is_own` (teacher and student are one).

    Raises:
        ValueError: if a column is missing, or a pair comes twice.
    """
    need_columns(table, "teacher", "student", "value", "before")
    repeated = table[table.duplicated(["teacher", "student"])]
    if len(repeated):
        row = repeated.iloc[0]
        raise ValueError(
            f"expected one row for each teacher and student, got several of "
            f"{row['teacher']!r} and {row['student']!r}; take the mean over seeds first"
        )
    return pd.DataFrame(
        {
            "teacher": table["teacher"],
            "student": table["student"],
            "gain": table["value"] - table["before"],
            "is_own": table["teacher"] == table["student"],
        }
    ).reset_index(drop=True)


def own_advantage(gains: pd.DataFrame) -> float:
    """How much more students gain from their own data than from that of others.

    The mean over students of the gain from own data less the mean gain from that of the other
    teachers; students that lack one of the two are left out. NaN without any.

    Args:
        gains: of `teacher_gains`.
    """
    advantages = []
    for _, of_student in gains.groupby("student", sort=False):
        own = of_student.loc[of_student["is_own"], "gain"]
        others = of_student.loc[~of_student["is_own"], "gain"]
        if len(own) and len(others):
            advantages.append(own.iloc[0] - others.mean())
    if not advantages:
        return math.nan
    return sum(advantages) / len(advantages)
