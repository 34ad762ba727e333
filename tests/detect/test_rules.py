"""Which steps in Chinese and Spanish reflect. All sentences were written for these tests."""

import time

import numpy as np
import pytest
from places import read_rows

from cotlens.detect.language import Language
from cotlens.detect.reflect import KINDS, N_REFLECTIVE, classify
from cotlens.detect.rules import cues_of, decide_by_rules

CHINESE = [
    # doubt
    ("等等，苹果好像不是七个。", "doubt"),
    ("等一下，我把单价看错了。", "doubt"),
    ("不对，面积不可能是负数。", "doubt"),
    ("这里有问题，右边多了一个平方。", "doubt"),
    ("我不确定这条定理能不能用。", "doubt"),
    ("這裡不對，我算錯了。", "doubt"),  # traditional characters
    ("等等,这一步不成立.", "doubt"),  # half-width signs
    ("Wait，第二项少了一个负号。", "doubt"),
    # backtrack, alternative
    ("让我重新算一遍总价。", "backtrack"),
    ("讓我重新計算總價。", "backtrack"),
    ("不，应该先乘后加。", "backtrack"),
    ("换个思路，先看余数。", "alternative"),
    ("或者设甲的速度为 v。", "alternative"),
    ("還有一種方法是畫圖。", "alternative"),
    # verify
    ("再检查一下各项的和。", "verify"),
    ("再檢查一下各項的和。", "verify"),
    ("12 × 3 = 36，没错。", "verify"),
    ("x = 4 代回去以后，两边的结果一致。", "verify"),
    ("对吗？", "verify"),
    ("那么 15 真的是奇数，对不对？", "verify"),
    # assess
    ("这道题有点复杂。", "assess"),
    ("应该没问题。", "assess"),
    ("第三项也没有问题。", "assess"),
    ("让我想想。", "assess"),
    # not reflection
    ("所以 2x = 8。", ""),
    ("苹果、梨、桃子等等，一共九种水果。", ""),  # et cetera
    ("这个图形不对称，要分成两块。", ""),
    ("病人需要做进一步检查。", ""),
    ("题目问的是三天一共走了多远。", ""),
    ("最高位不能是 0。", ""),
    ("", ""),
]

SPANISH = [
    ("Espera, la suma no sale.", "doubt"),
    ("¡Espera! Falta un signo.", "doubt"),
    ("Creo que me equivoqué en el segundo paso.", "doubt"),
    ("No estoy seguro de la fórmula.", "doubt"),
    ("Eso no tiene sentido.", "doubt"),
    ("¿Por qué sale un número negativo?", "doubt"),
    ("Mejor dicho, son ocho manzanas.", "backtrack"),
    ("Volvamos al enunciado.", "backtrack"),
    ("Otra forma es dibujar el triángulo.", "alternative"),
    ("¿Y si empiezo por el final?", "alternative"),
    ("O quizás la pregunta se refiere al área.", "alternative"),
    ("Voy a comprobar el resultado.", "verify"),
    ("¿Es correcto el signo?", "verify"),
    ("El total coincide con el de antes.", "verify"),
    ("Hmm.", "assess"),
    ("Déjame pensar.", "assess"),
    ("Parece razonable.", "assess"),
    ("Por lo tanto, x vale 4.", ""),
    ("El tiempo de espera es de 5 minutos.", ""),
    ("El tren sale a las ocho y llega a las diez.", ""),
    ("La pregunta pide el perímetro.", ""),
    ("Los espárragos cuestan 3 euros.", ""),
]

UNCLEAR = [
    ("等等。", Language.CHINESE),
    ("其实这是一个等差数列。", Language.CHINESE),
    ("Pero el segundo tren va más rápido.", Language.SPANISH),
    ("En realidad son nueve.", Language.SPANISH),
]


@pytest.mark.parametrize(("text", "kind"), CHINESE)
def test_chinese(text, kind):
    assert decide_by_rules(text, Language.CHINESE) == (kind, kind != "")


@pytest.mark.parametrize(("text", "kind"), SPANISH)
def test_spanish(text, kind):
    assert decide_by_rules(text, Language.SPANISH) == (kind, kind != "")


@pytest.mark.parametrize(("text", "language"), UNCLEAR)
def test_an_unclear_cue_decides_nothing(text, language):
    assert decide_by_rules(text, language) == ("", None)


def test_the_first_kind_of_the_codebook_counts():
    both = "再检查一下，不对，少了一项。"
    assert decide_by_rules(both, Language.CHINESE) == ("doubt", True)


@pytest.mark.parametrize("language", [Language.CHINESE, Language.SPANISH])
def test_cues_are_of_known_kinds(language):
    cues = cues_of(language)
    kinds = {*cues.opening_kinds, *cues.shaped_kinds, *cues.plain_kinds.values()}
    assert kinds - {"unclear", "-"} == set(KINDS[:N_REFLECTIVE])


def test_a_chinese_trace():
    texts = ["三加四等于八。", "等等，不对。", "$3 + 4 = 7$\n", "所以答案是七。"]
    result = classify(texts)
    assert result.is_reflection == [False, True, False, False]
    assert result.kind == ["", "doubt", "", ""]
    assert np.isnan(result.p_reflect).all()


def test_a_chinese_trace_with_english_formulas():
    texts = ["先求导数。", "f'(x) = 2x + 1\n", r"\[\sin(x) \leq \frac{1}{2}\]", "再检查一遍。"] * 5
    result = classify(texts)
    assert result.is_reflection == [False, False, False, True] * 5
    assert np.isnan(result.p_reflect).all()


def test_code_switching():
    # An English sentence among Chinese is the classifier's, a Chinese one among English the rules'.
    chinese = ["第一步是求和。", "所以和是十二。"] * 6
    result = classify([*chinese, "Wait, that is not right.", *chinese])
    assert result.p_reflect[12] > 0.3
    assert result.is_reflection[12] is True
    assert np.isnan(np.delete(result.p_reflect, 12)).all()

    english = ["We need to find the number of apples that they have. "] * 6
    result = classify([*english, "等等，我看错了题目。", *english])
    assert result.kind[6] == "doubt"
    assert np.isnan(result.p_reflect).tolist() == [False] * 6 + [True] + [False] * 6


def test_a_trace_that_changes_its_language():
    english = ["We need to find the number of apples that they have. "] * 15
    spanish = ["El problema pide los metros que recorren los dos trenes en total. "] * 14
    result = classify([*english, *spanish, "Espera, los trenes salen a la misma hora."])
    known = ~np.isnan(result.p_reflect)
    assert known[:12].all()
    assert not known[-10:].any()  # ten steps on each side are judged together
    assert result.kind[-1] == "doubt"


@pytest.mark.parametrize(
    "texts",
    [
        ["まず合計を求めます。", "待って、これは正しくないです。"],  # Japanese
        ["먼저 합을 구합니다. ", "잠깐, 이건 틀렸어요. "],
        ["Нужно проверить ответ ещё раз. "] * 3,
        ["Espera, não está certo, os números não são os mesmos do começo. "] * 3,  # Portuguese
        ["Aspetta, non è giusto, il numero della somma non può essere negativo. "] * 3,
        ["Espera, els nombres no són els mateixos amb la suma i és més gran. "] * 3,  # Catalan
    ],
)
def test_other_languages_stay_unknown(texts):
    result = classify(texts)
    assert result.is_reflection == [None] * len(texts)
    assert result.kind == [""] * len(texts)
    assert np.isnan(result.p_reflect).all()


def test_spanish_thinking_in_bias_anchors(data):
    """Two traces are thought in Spanish; by their labels none of the 29 units reflects."""
    rows = {row["id"]: row for row in read_rows(data / "labels" / "bias_anchors.jsonl.gz")}
    decisions = []
    for item in ("item_2", "item_4"):
        row = rows[f"qwen3p7-plus/es/disambig/{item}"]
        result = classify([chunk["text"] for chunk in row["chunks"]])
        assert np.isnan(result.p_reflect).all()
        decisions.extend(result.is_reflection)
    assert decisions == [False] * 29


@pytest.mark.parametrize(
    "text",
    ["等" * 500_000, "是否" * 250_000, "相符，" * 170_000, "¿" * 500_000, "no, " * 125_000],
)
def test_the_time_does_not_grow_with_the_text(text):
    started = time.perf_counter()
    decide_by_rules(text, Language.CHINESE)
    decide_by_rules(text, Language.SPANISH)
    assert time.perf_counter() - started < 2
