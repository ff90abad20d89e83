"""The dense kernel, where it is asked for: solved or told as by torch, on tame families and on hard ones."""

from __future__ import annotations

import pytest
import torch

from icnn_rl import Status
from icnn_rl.qp import PrimalDual, solve_qp
from tests.qp.hard import FAMILIES as HARD
from tests.qp.hard import problems
from tests.qp.judge import Kind, judge, optimum
from tests.qp.problems import FAMILIES, Family, instance
