from __future__ import annotations

import subprocess
import sys
import textwrap

PROGRAM = """
    import builtins, collections
    read = collections.Counter()
    usual = builtins.open

    def counted(file, *args, **kwargs):
        if str(file).endswith(".py") and "transformers" in str(file):
            read[str(file)] += 1
        return usual(file, *args, **kwargs)

    builtins.open = counted
    import edgeport_export.scan_once
    import transformers.models
    from transformers import BertConfig, GPT2LMHeadModel
    print(len(read), read.total())
    print(BertConfig.__name__, GPT2LMHeadModel.__module__, transformers.models.t5.__name__)
"""


def test_transformers_reads_its_sources_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=True, timeout=300
    )
    files, times, *names = done.stdout.split()
    assert int(files) > 500
    assert int(times) < 1.1 * int(files)  # a model that is imported looks through its own folder
    assert names == ["BertConfig", "transformers.models.gpt2.modeling_gpt2", "transformers.models.t5"]
