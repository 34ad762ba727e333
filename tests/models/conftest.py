"""A model that the tests of models share."""

import pytest
from tiny import tiny_model, tiny_tokenizer

from cotlens.models.load import wrap_model


@pytest.fixture(scope="module")
def model():
    tokenizer = tiny_tokenizer()
    return wrap_model(tiny_model(len(tokenizer)), tokenizer)
