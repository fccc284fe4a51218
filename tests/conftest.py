"""For all tests: one thread for torch, whose threads wait for each other by spinning when other tests share the cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
