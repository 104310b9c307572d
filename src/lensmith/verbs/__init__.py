"""The commands, one module each, in a folder for each thing that a person wants: see, teach, choose, use.

The module of `lensmith VERB` is called VERB. It offers `ABOUT` (a line of help), `arguments(parser)` and
`run(args, screen) -> Output`; the function of the module's name is the verb in Python (`lensmith.train`). A verb that
can be resumed also has `RECORD`, the file by which a finished run is known, and `text(record)`, and its function takes
`resume`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

GROUPS = {
    "see": ("demo", "evaluate", "suspects", "recipe"),
    "teach": ("train", "probe", "resume", "attach"),
    "choose": ("compare", "ladder", "curve", "sweep"),
    "use": ("predict", "fetch"),
}
"""The verbs of each folder, in the order of `lensmith --help`."""
VERBS = {verb: group for group, verbs in GROUPS.items() for verb in verbs}
"""Each verb's folder."""


def module(verb: str) -> Any:
    """A verb's module."""
    return import_module(f"{__name__}.{VERBS[verb]}.{verb}")
