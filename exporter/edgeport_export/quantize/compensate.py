"""Change a matrix one input at a time, and let the weights of later inputs make up for each change.

Optimal Brain Surgeon (Hassibi & Stork 1993) with one order of inputs for all outputs, from a Cholesky factor: Frantar
et al. 2022 (GPTQ) round in this way, Frantar & Alistarh 2023 (SparseGPT) prune. Knows one matrix, and not what for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["AT_ONCE", "compensate", "inverse_factor"]

AT_ONCE = 32
"""Inputs whose effect on all later ones is applied at once. Whoever looks at more than one input's weights at a time
does so where a multiple of it begins: these have had all that came before."""


def compensate(left: Tensor, factor: Tensor, choose: Callable[[int], Tensor]) -> None:
    """Go through the inputs in order.

    Args:
        left: (inputs, outputs) float32, changed in place: what is left of the weights when their turn comes.
        factor: (inputs, inputs), see ``inverse_factor``.
        choose: The number of an input to what its weights become, (outputs,); reads them from ``left``.
    """
    width, count = left.shape
    for start in range(0, width, AT_ONCE):
        stop = min(start + AT_ONCE, width)
        errors = torch.empty(stop - start, count)
        for at in range(start, stop):
            error = errors[at - start]
            torch.sub(left[at], choose(at), out=error).div_(factor[at, at])
            left[at + 1 : stop].addr_(factor[at, at + 1 : stop], error, alpha=-1)
        left[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)


def inverse_factor(moments: Tensor, damping: float) -> Tensor:
    """Upper triangular U with UᵀU the inverse of the damped ``moments``; damped more where that has no factor.

    Args:
        moments: (inputs, inputs), the sum of x xᵀ over the samples, scaled so that its diagonal's mean is 1.
        damping: Added to the diagonal: trust in the samples has a limit.
    """
    while True:
        damped = moments + torch.eye(moments.shape[0]) * damping
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed:
                return upper
        damping = max(damping * 10, 1e-6)
