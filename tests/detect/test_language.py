"""Which steps are English."""

import pytest

from cotlens.detect.language import is_english, languages
from cotlens.detect.tokens import read_steps


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
    assert is_english(read_steps([texts])).tolist() == expected


SPANISH = "La pregunta pide los metros que recorren los dos trenes. "
ENGLISH = "We need to check that it is the one that they want. "


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([ENGLISH] * 3, ["en"] * 3),
        ([SPANISH] * 4, ["es"] * 4),
        (["三加四等于七。", "3 + 4 = 7\n", "Wait, no。"], ["zh"] * 3),
        (["x^2 + 1 = 0\n"], ["en"]),  # formulas alone have no language
        ([ENGLISH] * 3 + ["等等，不对。"], ["en"] * 3 + ["zh"]),
        (["三加四等于七。"] * 5 + [ENGLISH], ["zh"] * 5 + ["en"]),
        (["合計は七です。", "計算終了。"], [None, None]),
        (["Der Benutzer möchte wissen, ob die Antwort für ihn gefährlich ist. "] * 4, [None] * 4),
        (["O usuário quer saber os números que não são primos com a soma. "] * 4, [None] * 4),
        (["L'utilisateur veut savoir où est la réponse dans les données. "] * 4, [None] * 4),
        # Names in code look like English words.
        (["El valor de `is_valid` no está en los datos, según el registro. "] * 4, ["es"] * 4),
    ],
)
def test_languages(texts, expected):
    steps = read_steps([texts])
    assert languages(steps, is_english(steps)) == expected


def test_a_spanish_quotation_leaves_english_english():
    texts = [ENGLISH] * 10 + ["«El país más grande de los dos».\n"] + [ENGLISH] * 10
    assert is_english(read_steps([texts])).all()
