"""Shared by the tests of the supervised experiments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def data_folder():
    """The folder of data files that ICNN_RL_DATA names."""
    folder = os.environ.get("ICNN_RL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs a folder of data files, named by ICNN_RL_DATA")
    return Path(folder)
