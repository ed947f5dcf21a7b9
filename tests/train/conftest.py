"""Checkpointers that close themselves."""

import pytest
from checkpoint_states import Opened


@pytest.fixture
def opened():
    opened = Opened()
    yield opened
    for checkpointer in opened.all:
        checkpointer.close()
