"""For all tests: one thread for torch, whose threads wait by spinning while other tests share the cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
