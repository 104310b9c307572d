"""The commands, one module each: its arguments, its function, its text.

`lensmith VERB` imports the module `verbs/VERB.py`, which offers `ABOUT` (a line of help), `arguments(parser)` and
`run(args, screen) -> Output`; the function of the module's name is the verb in Python (`lensmith.train`). A verb that
can be resumed also says by which file a finished run is known (`RECORD`), and its function takes `resume`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

VERBS = (
    *("demo", "train", "evaluate", "predict", "compare"),
    *("probe", "ladder", "curve", "sweep", "suspects"),
    *("resume", "attach", "fetch", "recipe"),
)
"""In the order of `lensmith --help`."""


def module(verb: str) -> Any:
    """A verb's module."""
    return import_module(f"{__name__}.{verb}")
