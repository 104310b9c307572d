"""The local machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith.errors import UserError
from lensmith.jobs.job import Job, away, leave, perform

if TYPE_CHECKING:
    from lensmith.progress import Tell


class Place:
    """Runs jobs in this process; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        if detach:
            raise UserError("A job on this machine can't be detached.", "Use another place, such as --on modal.")
        if job.resume and job.folder:
            if away(job.folder):
                hint = f"Copy it back first: lensmith attach {shlex.quote(str(job.folder))}"
                raise UserError(f"The run {job.folder} is still running on a remote machine.", hint)
            leave(job.folder)
        return perform(job, tell)

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        raise UserError(f"The run {folder} is on this machine: there is nothing to attach to.")

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        return self.attach(folder, tell)
