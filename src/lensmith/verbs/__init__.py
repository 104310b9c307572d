"""The verbs, one module each, in one folder per purpose: see, teach, compare, use.

The module of `lensmith VERB` is called VERB. It defines `ABOUT` (one line of help), `EXAMPLES` (commands for its help),
`arguments(parser)` and `run(args, screen) -> Output`. The function with the module's name is the verb in Python
(`lensmith.train`). A verb that can be resumed also defines `RECORD`, the file that only a finished run has, and
`text(record)`; its function accepts `resume`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

GROUPS = {
    "see": ("demo", "evaluate", "suspects", "recipe"),
    "teach": ("train", "probe", "resume", "attach"),
    "compare": ("compare", "ladder", "curve", "sweep"),
    "use": ("predict", "fetch"),
}
"""The verbs of each folder, in the order of `lensmith --help`."""
VERBS = {verb: group for group, verbs in GROUPS.items() for verb in verbs}
"""The folder of each verb."""


def module(verb: str) -> Any:
    """The module of a verb."""
    return import_module(f"{__name__}.{VERBS[verb]}.{verb}")
