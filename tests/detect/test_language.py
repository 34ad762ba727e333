"""Which steps are English."""

import pytest

from cotlens.detect.language import is_english


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["We need to find the number of apples that they have. "] * 3, [True] * 3),
        (
            ["El usuario pregunta por la respuesta correcta y la opción más segura. "] * 4,
            [False] * 4,
        ),
        (["Der Benutzer möchte wissen, ob die Antwort für ihn gefährlich ist. "] * 4, [False] * 4),
        (["三加四等于七。", "等等，再检查一遍。"], [False] * 2),
        (["Нужно проверить ответ ещё раз. "] * 3, [False] * 3),
        (["x^2 + 1 = 0\n", "Δx ≈ π/2\n"], [True] * 2),  # formulas have no language
        (
            ["We need to check that it is the one that they want. "] * 4 + ["等等，不对。"],
            [True] * 4 + [False],
        ),
        (["We need to find the one that they have. " * 9 + "Привет всем. " * 6], [True]),
    ],
)
def test_language(texts, expected):
    assert is_english(texts).tolist() == expected
