"""Other ways to run the model, each in an environment of its own: what they are called, and what each can run.

A peer is a line in ``catalog.py``, a list of pinned packages in ``requirements/``, and one file here that its
interpreter runs. That file has ``open_subject(options)``, and ``prepare(options)`` where the model has to be converted
first, in a process that is not measured. It may import numpy, what the list pins, ``heads``, ``calibration`` and
``subjects``. Options, JSON values:

    model         folder of the original             task, architecture, outputs     what the bundle says of it
    threads       of the processor                   flavour                         what follows the peer's name
    folder        what ``prepare`` has written, or writes
    calibration   sentences, for ``prepare`` alone
"""
