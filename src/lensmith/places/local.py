"""This machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensmith import verbs
from lensmith.errors import UserError
from lensmith.places import Job, away, leave

if TYPE_CHECKING:
    from lensmith.progress import Tell


class Place:
    """Runs jobs in this process; see `places.Place`."""

    def run(self, job: Job, tell: Tell, detach: bool = False) -> dict[str, Any]:
        if detach:
            raise UserError("A job on this machine can't be detached.", "Name another place, as in --on modal.")
        if job.resume:
            assert job.folder, "a resumed job has a folder"
            if away(job.folder):
                hint = f"Bring it home first: lensmith attach {shlex.quote(str(job.folder))}"
                raise UserError(f"The run {job.folder} goes on elsewhere.", hint)
            leave(job.folder)
            if job.verb == "train":
                return verbs.resume(job.folder, tell, job.recipe)
            return verbs.resume_evaluation(job.folder, tell)
        assert job.recipe, "a new job has a recipe"
        if job.verb == "train":
            return verbs.train(job.recipe, job.folder, tell)
        return verbs.evaluate(job.recipe, job.folder, tell, job.split)

    def attach(self, folder: Path, tell: Tell) -> dict[str, Any]:
        raise UserError(f"The run {folder} is on this machine: there is nothing to attach to.")

    def cancel(self, folder: Path, tell: Tell) -> dict[str, Any]:
        return self.attach(folder, tell)
