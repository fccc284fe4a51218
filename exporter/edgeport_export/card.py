"""The model card: what the bundle is and what was measured, as Markdown for people who find it in a folder."""

from __future__ import annotations

from edgeport.bundle import Manifest

from edgeport_export.prune import pruning_summary

__all__ = ["model_card"]

_EXAMPLES = {
    "question-answering": 'pipe(question="Who wrote it?", context="Mary Shelley wrote it in 1818.")',
    "zero-shot-classification": 'pipe("The train was late again.", candidate_labels=["travel", "food"])',
    "text-ranking": 'pipe.rank("where is the harbour", ["The harbour is in the south.", "It rained."])',
    "fill-mask": 'pipe("The harbour lies {mask} of the town.")',
}


def model_card(manifest: Manifest) -> str:
    """The text of the bundle's README.md."""
    source = manifest.source
    example = _EXAMPLES.get(manifest.task, 'pipe("The last boat left an hour ago.")')
    if manifest.text is not None:
        example = example.replace("{mask}", manifest.text.special_tokens.get("mask_token", "[MASK]"))
    lines = [
        "---",
        "library_name: edgeport",
        f"pipeline_tag: {'sentence-similarity' if manifest.task == 'sentence-embedding' else manifest.task}",
        f"base_model: {source.id}",
        "tags: [onnx, edgeport]",
        "---",
        "",
        f"# {source.id}, for the edge",
        "",
        f"`{source.architecture}` exported to ONNX for {manifest.task} by edgeport "
        f"{manifest.versions.get('edgeport', '')} on {manifest.created[:10]}"
        + (f", from revision `{source.revision}`." if source.revision else "."),
        "",
        *_pruned(manifest),
        "```python",
        "import edgeport",
        "",
        'pipe = edgeport.load("this-folder")',
        f"print({example})",
        "```",
        "",
        "## Variants",
        "",
        "| variant | size | largest difference | mean cosine | same label | latency | needs |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, variant in manifest.variants.items():
        parity, latency = variant.measured.get("parity"), variant.measured.get("latency")
        agreement = parity.get("agreement") if parity else None
        lines.append(
            "| "
            + " | ".join(
                (
                    name,
                    f"{variant.size_bytes / 1e6:.1f} MB",
                    f"{parity['max_abs']:.2g}" if parity else "not checked",
                    f"{parity['cosine']:.5f}" if parity else "not checked",
                    f"{agreement:.1%}" if agreement is not None else "–",
                    ", ".join(f"{v:.1f} ms at {k}" for k, v in latency["milliseconds"].items()) if latency else "–",
                    f"onnxruntime ≥ {variant.min_onnxruntime}",
                )
            )
            + " |"
        )
    lines += ["", _how_checked(manifest), "", *_quality(manifest)]
    return "\n".join(lines)


def _pruned(manifest: Manifest) -> list[str]:
    """What was cut out of the original; nothing of a model that is whole."""
    record = manifest.pruning
    if not record:
        return []
    how = [f"importance: {record['importance']}"] if "importance" in record else []
    how += [f"by what it does with {record['samples']}"] if record["samples"] else []
    how += [f"words by {record['vocabulary']['corpus']}"] if "vocabulary" in record else []
    explained = f" ({', '.join(how)})" if how else ""
    return [
        f"The original was pruned: {pruning_summary(record)}{explained}. "
        "Differences below are to the pruned model in PyTorch; what pruning cost in quality is for "
        "`edgeport evaluate` to say.",
        "",
    ]


def _quality(manifest: Manifest) -> list[str]:
    """What variants that write text have lost; nothing of any other."""
    found = {
        name: variant.measured["quality"]
        for name, variant in manifest.variants.items()
        if "quality" in variant.measured
    }
    if not found:
        return []
    text = manifest.validation["text"]
    original = next(iter(found.values()))["original_perplexity"]
    return [
        "## Quality",
        "",
        "| variant | perplexity | divergence, nats | same top token |",
        "|---|---:|---:|---:|",
        f"| original | {original:.5g} | | |",
        *(
            f"| {name} | {q['perplexity']:.5g} | {q['divergence']:.5f} | {q['agreement']:.1%} |"
            for name, q in found.items()
        ),
        "",
        f"Over {text['tokens']:,} tokens of {text['name']} (SHA-256 `{text['sha256'][:12]}`), in pieces of "
        f"{text['piece_tokens']} tokens. Divergence is the mean Kullback-Leibler divergence of the next token from the "
        "original's. Perplexities of other texts or pieces do not compare.",
        "",
    ]


def _how_checked(manifest: Manifest) -> str:
    validation = manifest.validation
    if not validation.get("performed"):
        return "**Not validated**: the export was asked not to compare the graphs with the original."
    machine = validation.get("machine", {})
    kernels = f", {machine['kernels']}" if machine.get("kernels") else ""
    return (
        f"Differences are to the original in PyTorch, fp32, over {validation['rows']} rows of "
        f"{validation['batches']} batches of sentences of many lengths, padding left out. "
        "Latencies are medians at batch × tokens, an indication from the machine of the export "
        f"({machine.get('processor', 'unknown')}, {machine.get('threads', '?')} threads{kernels}); "
        "`edgeport bench` measures on yours."
    )
