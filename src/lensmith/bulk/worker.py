"""A worker process of the local pool: `python -m lensmith.bulk.worker`. It reads tasks from standard input and writes
what it has done to standard output, a line of JSON each."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any


def main() -> None:
    """Do shards until standard input ends."""
    # Nothing else may write to the stream of answers: what libraries print goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    import signal

    from lensmith.bulk.pool import Model, Worker, plain
    from lensmith.bulk.shard import Task
    from lensmith.bulk.sources import Piece
    from lensmith.errors import UserError

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its workers
    first = json.loads(sys.stdin.readline())
    try:
        worker = Worker(Model(first["model"]["run"], tuple(first["model"]["labels"])), Task(**first["task"]))
        say(ready=True)
        for line in sys.stdin:
            task = json.loads(line)
            done = worker.work(task["shard"], [Piece(*piece) for piece in task["pieces"]])
            if isinstance(done, str):
                say(shard=task["shard"], failed=done)
            else:
                say(part=asdict(done))
    except UserError as error:
        say(**plain(error))


if __name__ == "__main__":
    main()
