"""The board on which the workers of a sweep share its trials: an Optuna study in any database that Optuna supports.

There is no lock and no coordinator. A worker adds a claim to the board and then reads the board. Of claims with the
same key, the one with the lowest number is valid (`trials.valid_entries`). The database assigns the numbers, so all
workers agree on the valid claim. The work of a dead worker is released, and resumed by the next worker that claims it.
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
from lensmith.search.database import Database, Lost, is_alive
from lensmith.search.trials import Entry, Space, State, quiet_optuna, valid_entries

HEARTBEAT, SILENCE = 30.0, 180.0
"""Seconds between heartbeats, and seconds without one after which a worker on another machine counts as dead."""
POLL = 2.0
"""Seconds between two reads of the board while other workers are busy."""
KILLS = 3
"""A trial fails if this number of its workers were killed at the same stage, perhaps for lack of memory."""


class Board:
    """One study: what is claimed, by which worker, and with what result.

    Args:
        name: of the study, which is created if it doesn't exist.
        space: the search space, for Optuna's own tools; empty if nothing is searched.
    """

    def __init__(self, database: Database, name: str, space: Space) -> None:
        self.database, self.space, self.name = database, space, name
        self.current: int | None = None
        """The id of the entry that this worker is working on."""
        self._last_heartbeat: dict[int, tuple[int, float]] = {}
        with quiet_optuna() as optuna:
            try:
                self.study = database.call("get_study_id_from_name", name)
            except KeyError:
                with suppress(optuna.exceptions.DuplicatedStudyError):  # another worker was faster
                    database.call("create_new_study", [optuna.study.StudyDirection.MAXIMIZE], name)
                self.study = database.call("get_study_id_from_name", name)

    def about(self, mine: dict[str, Any]) -> dict[str, Any]:
        """The description of the sweep stored by the first worker; stores `mine` if there is none."""
        stored = self._call("get_study_user_attrs", self.study).get("about")
        if stored is None:
            self._call("set_study_user_attr", self.study, "about", mine)
        return mine if stored is None else dict(stored)

    def entries(self) -> list[Entry]:
        """All claims, in the order of their numbers."""
        trials = self._call("get_all_trials", self.study, False)
        return sorted(map(_entry, trials), key=lambda entry: entry.number)

    def claim(
        self, key: str, values: dict[str, Any], limit: int | None = None, resumed: Entry | None = None
    ) -> Entry | None:
        """Add a claim to the board.

        Args:
            limit: the maximum number of valid entries.
            resumed: the entry whose work is resumed.

        Returns:
            The entry, or None if the claim isn't valid, because another worker was faster.
        """
        about: dict[str, Any] = {"key": key, "values": values, "worker": self.database.worker}
        if resumed:
            about |= {"origin": resumed.origin, "share": resumed.fraction, "killed": resumed.killed}
        with quiet_optuna() as optuna:
            template = optuna.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params={name: d.encode(values[name]) for name, d in self.space.items()},
                distributions={name: d.distribution() for name, d in self.space.items()},
                intermediate_values=dict(resumed.reports) if resumed else {},
                user_attrs=about,
            )
        self.current = self._call("create_new_trial", self.study, template)
        entries = self.entries()
        mine = next(entry for entry in entries if entry.id == self.current)
        if mine in valid_entries(entries, limit):
            return mine
        self.end(mine, "left")
        return None

    def report(self, entry: Entry, stage: int, accuracy: float, fraction: float) -> list[Entry]:
        """Store the progress of an entry, and return all entries.

        Args:
            stage: the number of completed stages.
            fraction: the completed fraction of the training.

        Raises:
            Lost: another worker has taken over the entry.
        """
        self._call("set_trial_user_attr", entry.id, "share", fraction)
        if entry.killed and fraction > entry.fraction:
            self._call("set_trial_user_attr", entry.id, "killed", 0)
        self._call("set_trial_intermediate_value", entry.id, stage, accuracy)
        return self.entries()

    def end(self, entry: Entry, state: State, accuracy: float | None = None, sentence: str = "") -> None:
        """Store the final state of an entry, or `left` if any worker may resume it.

        Args:
            sentence: why it failed. An entry that is `pruned` with a sentence has diverged.

        Raises:
            Lost: another worker has taken over the entry.
        """
        with quiet_optuna() as optuna:
            states = optuna.trial.TrialState
        self.current = None if self.current == entry.id else self.current
        if sentence:
            self._call("set_trial_user_attr", entry.id, "sentence", sentence)
        final = {"finished": states.COMPLETE, "pruned": states.PRUNED}.get(state, states.FAIL)
        self._call("set_trial_state_values", entry.id, final, None if accuracy is None else [accuracy])

    def work(
        self, propose: Callable[[Sequence[Entry]], tuple[str, dict[str, Any]] | None], limit: int | None = None
    ) -> Iterator[Entry]:
        """Entries for this worker, one after another, until all workers are done: unfinished work that others gave up,
        then new work.

        Args:
            propose: from the valid entries, returns key and values of a new one, or None if there is nothing new to do.
            limit: the maximum number of valid entries.
        """
        waiting = False
        while True:
            for entry in self._dead(self.entries()):
                with suppress(Lost):
                    self._call("set_trial_user_attr", entry.id, "killed", entry.killed + 1)
                    self.end(entry, "left")
            current = valid_entries(self.entries(), limit)
            left = next((entry for entry in current if entry.state == "left"), None)
            if left:
                mine = self.claim(f"after {left.number}", left.values, limit, left)
                if mine and mine.killed >= KILLS:
                    self.end(mine, "failed", sentence=f"Its worker was killed {mine.killed} times at the same stage.")
                    continue
            elif new := propose(current):
                mine = self.claim(*new, limit)
            elif running := sum(entry.state == "running" for entry in current):
                if not waiting:
                    self.database.tell(Note(f"Waiting for other workers, which are training {running}."))
                waiting = True
                time.sleep(POLL)
                continue
            else:
                return
            if mine:
                waiting = False
                yield mine

    @contextmanager
    def alive(self, entry: Entry) -> Iterator[None]:
        """Send heartbeats inside the block, so that workers on other machines don't take over the entry."""
        stop, storage = Event(), self.database.storage

        def send_heartbeats() -> None:
            count = entry.heartbeats
            while not stop.wait(HEARTBEAT):
                count += 1
                with suppress(Exception):  # the main thread handles an unreachable database or a lost entry
                    storage.set_trial_user_attr(entry.id, "beat", count)
            storage.remove_session()

        thread = Thread(target=send_heartbeats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def leave(self) -> None:
        """Release this worker's entry. If the database doesn't respond, other workers see that this one is dead."""
        if self.current is not None:
            with suppress(Exception), quiet_optuna() as optuna:
                self.database.storage.set_trial_state_values(self.current, optuna.trial.TrialState.FAIL)

    def _dead(self, entries: Sequence[Entry]) -> list[Entry]:
        """Running entries whose worker is dead.

        A worker on this machine is dead if its process has ended, another if it sends no heartbeats. The time without
        heartbeats is measured by this machine's clock, so clocks need not agree.
        """
        dead, now = [], time.monotonic()
        for entry in entries:
            if entry.state != "running":
                continue
            alive = is_alive(entry.worker)
            if entry.worker.get("token") == self.database.worker["token"]:
                alive = entry.id == self.current
            if alive is None:
                heartbeats, since = self._last_heartbeat.get(entry.id, (-1, now))
                self._last_heartbeat[entry.id] = (entry.heartbeats, since if heartbeats == entry.heartbeats else now)
                alive = heartbeats != entry.heartbeats or now - since < SILENCE
            if not alive:
                dead.append(entry)
        return dead

    def _call(self, method: str, *args: Any) -> Any:
        try:
            return self.database.call(method, *args)
        except KeyError:
            raise UserError(
                f"The sweep {self.name!r} is no longer in the database {self.database.shown}.", "Start a new sweep."
            ) from None


def _entry(trial: Any) -> Entry:
    about = trial.user_attrs
    optuna_state, sentence = trial.state.name, about.get("sentence", "")
    state: State = "running"
    if optuna_state == "FAIL":
        state = "failed" if sentence else "left"
    elif optuna_state == "PRUNED":
        state = "failed" if sentence else "pruned"
    elif optuna_state == "COMPLETE":
        state = "finished"
    reports = dict(trial.intermediate_values)
    return Entry(
        number=trial.number,
        state=state,
        values={RENAMED.get(key, key): value for key, value in about.get("values", {}).items()},
        key=about.get("key", f"{trial.number}"),
        origin=about.get("origin", trial.number),
        reports=reports,
        fraction=about.get("share", 0.0),
        accuracy=trial.value if state == "finished" else max(reports.values(), default=None),
        sentence=sentence,
        diverged=optuna_state == "PRUNED" and bool(sentence),
        worker=about.get("worker", {}),
        heartbeats=about.get("beat", 0),
        killed=about.get("killed", 0),
        id=trial._trial_id,
    )
