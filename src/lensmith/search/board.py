"""The board on which the workers of a sweep share its trials: an Optuna study in any database that Optuna speaks to.

No lock is held and no worker is in charge. A worker puts a claim on the board and then reads it: of claims with the
same key the lowest number stands (`trials.standing`), and since the database gives out the numbers, all workers see
the same one standing. What a dead worker had is handed back, and whoever claims it next goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from lensmith.config import RENAMED
from lensmith.errors import UserError
from lensmith.progress import Note
from lensmith.search.database import Database, Lost, lives
from lensmith.search.trials import Entry, Space, State, quiet_optuna, standing

BEAT, SILENCE = 30.0, 180.0
"""Seconds between two signs of life, and without one until a worker on another machine counts as dead."""
LOOK = 2.0
"""Seconds between two looks at the board while others work."""
KILLS = 3
"""Workers that may be killed at the same place of a trial, by the system for want of memory perhaps, before it counts
as failed."""


class Board:
    """One study: what is claimed, by whom, and what came of it.

    Args:
        name: the study's; it is made if there is none.
        space: what is searched, so that Optuna's own tools see it; empty where nothing is.
    """

    def __init__(self, database: Database, name: str, space: Space) -> None:
        self.database, self.space, self.name = database, space, name
        self.current: int | None = None
        """The entry that this worker has, by its id."""
        self._heard: dict[int, tuple[int, float]] = {}
        with quiet_optuna() as optuna:
            try:
                self.study = database.call("get_study_id_from_name", name)
            except KeyError:
                with suppress(optuna.exceptions.DuplicatedStudyError):  # another worker was faster
                    database.call("create_new_study", [optuna.study.StudyDirection.MAXIMIZE], name)
                self.study = database.call("get_study_id_from_name", name)

    def about(self, mine: dict[str, Any]) -> dict[str, Any]:
        """What the first worker has written here of the sweep: `mine`, if that is this one."""
        kept = self._call("get_study_user_attrs", self.study).get("about")
        if kept is None:
            self._call("set_study_user_attr", self.study, "about", mine)
        return mine if kept is None else dict(kept)

    def entries(self) -> list[Entry]:
        """All claims, in the order of their numbers."""
        found = self._call("get_all_trials", self.study, False)
        return sorted(map(_entry, found), key=lambda entry: entry.number)

    def claim(
        self, key: str, values: dict[str, Any], most: int | None = None, then: Entry | None = None
    ) -> Entry | None:
        """Put a claim on the board.

        Args:
            most: only so many entries count.
            then: the entry whose work is gone on with.

        Returns:
            The entry, or None if another worker's stands.
        """
        about: dict[str, Any] = {"key": key, "values": values, "worker": self.database.worker}
        if then:
            about |= {"origin": then.origin, "share": then.share, "killed": then.killed}
        with quiet_optuna() as optuna:
            template = optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params={name: d.encode(values[name]) for name, d in self.space.items()},
                distributions={name: d.distribution() for name, d in self.space.items()},
                intermediate_values=dict(then.reports) if then else {},
                user_attrs=about,
            )
        self.current = self._call("create_new_trial", self.study, template)
        entries = self.entries()
        mine = next(entry for entry in entries if entry.id == self.current)
        if mine in standing(entries, most):
            return mine
        self.end(mine, "left")
        return None

    def report(self, entry: Entry, part: int, accuracy: float, share: float) -> list[Entry]:
        """Write down how far an entry has got, and give all of them as they are now.

        Raises:
            Lost: another worker has it.
        """
        self._call("set_trial_user_attr", entry.id, "share", share)
        if entry.killed and share > entry.share:
            self._call("set_trial_user_attr", entry.id, "killed", 0)
        self._call("set_trial_intermediate_value", entry.id, part, accuracy)
        return self.entries()

    def end(self, entry: Entry, state: State, accuracy: float | None = None, sentence: str = "") -> None:
        """Say what came of an entry: `left` for anybody to go on with, or what it is for good.

        Args:
            sentence: why it failed. One that is `pruned` with a sentence has diverged.

        Raises:
            Lost: another worker has it.
        """
        with quiet_optuna() as optuna:
            states = optuna.trial.TrialState
        self.current = None if self.current == entry.id else self.current
        if sentence:
            self._call("set_trial_user_attr", entry.id, "sentence", sentence)
        end = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(state, states.FAIL)
        self._call("set_trial_state_values", entry.id, end, None if accuracy is None else [accuracy])

    def work(
        self, propose: Callable[[Sequence[Entry]], tuple[str, dict[str, Any]] | None], most: int | None = None
    ) -> Iterator[Entry]:
        """Entries for this worker to work on, one after another, until all workers are done: what others had to leave,
        and what is new.

        Args:
            propose: key and values of a new entry, from those that stand; None if there is nothing new to do.
            most: only so many entries count.
        """
        waiting = False
        while True:
            for entry in self._dead(self.entries()):
                with suppress(Lost):
                    self._call("set_trial_user_attr", entry.id, "killed", entry.killed + 1)
                    self.end(entry, "left")
            now = standing(self.entries(), most)
            left = next((entry for entry in now if entry.state == "left"), None)
            if left:
                mine = self.claim(f"after {left.number}", left.values, most, left)
                if mine and mine.killed >= KILLS:
                    self.end(mine, "failed", sentence=f"Its worker was killed {mine.killed} times at the same place.")
                    continue
            elif new := propose(now):
                mine = self.claim(*new, most)
            elif running := sum(entry.state == "running" for entry in now):
                if not waiting:
                    self.database.tell(Note(f"Waiting for other workers: they have {running} in hand."))
                waiting = True
                time.sleep(LOOK)
                continue
            else:
                return
            if mine:
                waiting = False
                yield mine

    @contextmanager
    def alive(self, entry: Entry) -> Iterator[None]:
        """Signs of life while an entry is worked on, so that workers on other machines don't take it."""
        stop, storage = Event(), self.database.storage

        def beat() -> None:
            count = entry.beat
            while not stop.wait(BEAT):
                count += 1
                with suppress(Exception):  # the work itself waits for the database, and hears of a loss
                    storage.set_trial_user_attr(entry.id, "beat", count)
            storage.remove_session()

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def leave(self) -> None:
        """Hand back what this worker has; if the database doesn't answer now, others see that the process is gone."""
        if self.current is not None:
            with suppress(Exception), quiet_optuna() as optuna:
                self.database.storage.set_trial_state_values(self.current, optuna.trial.TrialState.FAIL)

    def _dead(self, entries: Sequence[Entry]) -> list[Entry]:
        """Running entries whose worker is gone: on this machine by its process, else by its silence.

        Silence is measured on this machine's own clock, so clocks need not agree."""
        dead, now = [], time.monotonic()
        for entry in entries:
            if entry.state != "running":
                continue
            alive = lives(entry.worker)
            if entry.worker.get("token") == self.database.worker["token"]:
                alive = entry.id == self.current
            if alive is None:
                beat, since = self._heard.get(entry.id, (-1, now))
                self._heard[entry.id] = (entry.beat, since if beat == entry.beat else now)
                alive = beat != entry.beat or now - since < SILENCE
            if not alive:
                dead.append(entry)
        return dead

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return self.database.call(method, *args)
        except KeyError:
            raise UserError(
                f"The sweep {self.name!r} is no longer in the database {self.database.shown}.", "Start a new one."
            ) from None


def _entry(trial: Any) -> Entry:
    about = trial.user_attrs
    kind, sentence = trial.state.name, about.get("sentence", "")
    state: State = "running"
    if kind == "FAIL":
        state = "failed" if sentence else "left"
    elif kind == "PRUNED":
        state = "failed" if sentence else "pruned"
    elif kind == "COMPLETE":
        state = "finished"
    reports = dict(trial.intermediate_values)
    return Entry(
        number=trial.number,
        state=state,
        values={RENAMED.get(key, key): value for key, value in about.get("values", {}).items()},
        key=about.get("key", f"{trial.number}"),
        origin=about.get("origin", trial.number),
        reports=reports,
        share=about.get("share", 0.0),
        accuracy=trial.value if state == "finished" else max(reports.values(), default=None),
        sentence=sentence,
        diverged=kind == "PRUNED" and bool(sentence),
        worker=about.get("worker", {}),
        beat=about.get("beat", 0),
        killed=about.get("killed", 0),
        id=trial._trial_id,
    )
