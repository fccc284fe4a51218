"""Models with the kernels of the package edgeport-kernels and without: the same probabilities, the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from architectures import tiny_model, tiny_tokenizer
from edgeport.bundle import Bundle
from edgeport.generate.decoder import decoder_options, open_decoder
from edgeport.session import open_session
from edgeport.session.cpu import cpu_features
from edgeport.session.kernels import CHOICE, PACKAGE, find_kernels
from edgeport_export import Recipe, export
from edgeport_export.quantize import weight_only

needs_kernels = pytest.mark.skipif(find_kernels() is None, reason="there are no kernels for this processor")


@needs_kernels
@pytest.mark.parametrize(
    ("architecture", "precision"),
    [
        ("llama", "int4"),  # RMS norms, a gated SiLU
        ("gpt2", "int8"),  # layer norms, GELU by tanh
        ("gpt_neox", "int4"),  # attention and the other half side by side
        ("phi", "int8"),  # one norm for both
        ("opt", "int4"),  # ReLU
        ("gemma2", "int8"),  # norms behind the products too, a gated GELU
        ("granite", "int4"),  # scaled residuals
    ],
)
def test_an_architecture_says_the_same(
    architecture: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_only, "_SMALL", 1)
    torch.manual_seed(0)
    model = tiny_model(architecture, "text-generation")
    export(model, tmp_path / "b", Recipe(precisions=(precision,), validate=False), tokenizer=tiny_tokenizer())
    bundle = Bundle.open(tmp_path / "b")
    found, nodes = [], []
    for choice in "01":
        monkeypatch.setenv(CHOICE, choice)
        with open_session(bundle, threads=1) as session:
            nodes.append(dict(session.report().nodes))
            decoder = open_decoder(session, **decoder_options(bundle.manifest))
            read = decoder.score([[5, 9, 11, 30, 7], [8, 6, 21]])
            steps = [decoder.step(np.array([12 + i, 40 - i])) for i in range(3)]
            found.append(np.concatenate([*read, *steps]))
    np.testing.assert_allclose(*found, atol=0.03 * np.abs(found[0]).max())
    assert nodes[1][PACKAGE] > 0
    assert sum(nodes[1].values()) < sum(nodes[0].values())


@needs_kernels
@pytest.mark.skipif("avx512_vnni" not in cpu_features(), reason="dynamic products are replaced with VNNI alone")
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "deberta-v2", "modernbert", "mpnet", "electra"])
def test_a_model_that_reads_says_the_same(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = tiny_model(architecture, "text-classification").eval()
    tokenizer = tiny_tokenizer()
    export(model, tmp_path / "b", Recipe(precisions=("int8",), validate=False), tokenizer=tokenizer)
    bundle = Bundle.open(tmp_path / "b")
    ids = tokenizer(["the train was over an hour late", "water"], padding=True, return_tensors="pt")
    feeds = {i.name: ids[i.name].numpy() for i in bundle.manifest.inputs}
    found, nodes = [], []
    for choice in "01":
        monkeypatch.setenv(CHOICE, choice)
        with open_session(bundle, threads=1) as session:
            nodes.append(dict(session.report().nodes))
            found.append(next(iter(session.run(feeds).values())))
    assert nodes[1][PACKAGE] > 0
    np.testing.assert_allclose(*found, atol=0.03 * np.abs(found[0]).max())
