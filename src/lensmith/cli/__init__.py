"""The command line: parse the arguments, run a verb, print its output. No other room prints.

Results go to standard output, everything else to standard error. With `--json`, standard output contains the verb's
record as one JSON object and nothing else.
"""

from lensmith.cli.main import main

__all__ = ["main"]
