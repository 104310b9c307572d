"""The command line: parse, run a verb, print. The only room that prints.

Results go to standard output, everything else to standard error. With `--json`, standard output holds the verb's
record as one JSON object and nothing else.
"""

from lensmith.cli.main import main

__all__ = ["main"]
