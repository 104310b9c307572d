"""Outside models in verbs: what is asked, by which key, and the user's consent before anything is sent."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lensmith import apis
from lensmith.apis.asking import Asking, Item, Unanswered
from lensmith.apis.batches import service
from lensmith.apis.plan import Plan, plan
from lensmith.apis.prices import Tariff, tariff
from lensmith.apis.provider import Ask, Provider
from lensmith.apis.recording import FILE, Recording, earlier
from lensmith.apis.sending import Response, sender
from lensmith.config import Recipe
from lensmith.engine.question import messages, names_of
from lensmith.errors import ImageError, UserError
from lensmith.progress import Note, Tell
from lensmith.runs.files import write_json
from lensmith.runs.folder import read_run
from lensmith.verbs import terminal

SAMPLES = 16
"""Images whose size is looked at to say what asking costs."""


@dataclass(frozen=True)
class Outside:
    """An outside model with its question, ready to be asked."""

    provider: Provider
    key: str
    ask: Ask
    labels: dict[str, str]
    """The label of each name."""
    tariff: Tariff
    shutdown: str
    """The date that the API itself gives; empty if none."""

    def asking(self, recipe: Recipe, folder: Path) -> Asking:
        """What asks, and keeps the answers in a run folder."""
        options = recipe.api
        replay = earlier(Path(options.replay)) if options.replay else None
        return Asking(self.provider, self.key, self.ask, options, Recording(folder), self.tariff, replay)


def outside_model(recipe: Recipe, labels: Sequence[str]) -> Outside:
    """The outside model of a recipe, asked about these classes.

    Raises:
        UserError: there is no such provider, key, model or price; or there are too many classes.
    """
    provider = apis.find(recipe.model.base)
    if recipe.model.adapter:
        raise UserError(f"{recipe.model.base} can't be loaded with the weights of {recipe.model.adapter}.")
    names = [first for first, *_ in names_of(recipe.question, labels)]
    if len(set(names)) < len(names):
        raise UserError("Two classes have the same name.", "Give them different ones in question.names.")
    if recipe.api.batch and recipe.api.repeat:
        raise UserError("A batch asks about each image once.", "Leave api.repeat or api.batch out.")
    if recipe.api.batch:
        service(provider, "none")  # raises if there is no batch interface
    ask = _ask(recipe, names)
    provider.require(ask)
    key = _key(provider)
    price = tariff(provider, recipe.api)
    return Outside(provider, key, ask, dict(zip(names, labels, strict=True)), price, _known(provider, key, recipe))


def planned(outside: Outside, recipe: Recipe, requests: int, samples: Sequence[Item]) -> Plan:
    """What is going to be sent."""
    pictures = []
    for _, read in samples:
        with suppress(ImageError):  # those are listed where they are asked about
            pictures.append(read())
    return plan(outside.provider, outside.ask, recipe.api, outside.tariff, requests, pictures, outside.shutdown)


def consent(plan: Plan, tell: Tell, yes: bool) -> None:
    """Say what is going to be sent, and ask unless the user has agreed already or no image leaves this machine.

    Raises:
        UserError: nobody can be asked.
        KeyboardInterrupt: the user doesn't agree.
    """
    if plan.over_budget:
        raise UserError(
            f"The batch would cost about ${plan.dollars:.2f}, and the budget is ${plan.over_budget:g}.",
            "Raise api.budget, or score fewer images: data.test_limit=...",
        )
    for sentence in plan.sentences():
        tell(Note(sentence))
    if yes or plan.provider.local or not plan.requests:
        return
    terminal.ask(tell, f"Nothing was sent: {plan.requests:,} images would go to {plan.provider.host}.")


@contextmanager
def leaving_nothing(folder: Path, resumed: bool) -> Iterator[None]:
    """If a new run ends before it has an answer, remove its folder: there is nothing to resume."""
    try:
        yield
    except Unanswered:  # which may be different later
        raise
    except UserError:
        answers = folder / FILE
        if not resumed and not (answers.exists() and answers.stat().st_size):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def submitted(folder: Path) -> dict[str, Any]:
    """The record of a run whose requests were submitted as a batch."""
    again = f"lensmith attach {shlex.quote(str(folder))}"
    sentence = f"Submitted. The answers come within a day; pick them up with: {again}. To cancel: {again} --cancel"
    return {"run": str(folder), "report": None, "detached": sentence}


def cancel_batch(folder: Path) -> dict[str, Any]:
    """Cancel the batch of a run; what it has answered by then can be picked up."""
    from lensmith.apis.batches import cancel

    provider = apis.find(read_run(folder).model.base)
    number = cancel(provider, _key(provider), folder)
    return {"run": str(folder), "cancelled": f"Cancelled: {number} batch{'es' * (number != 1)} of {folder}."}


def write_question(outside: Outside, recipe: Recipe, folder: Path, item: Item | None) -> None:
    """Write what is asked: question.json as of other models, and request.json, a request without its image."""
    system = f"{outside.ask.system}\n\n" if outside.ask.system else ""
    write_json(folder / "question.json", {"text": f"{system}{outside.ask.text}\n[the image]"})
    with suppress(ImageError):
        if item:
            picture = item[1]()
            body = outside.provider.body(outside.ask, picture, recipe.api) | recipe.api.body
            request = {"url": outside.provider.url + outside.provider.path, "body": _hidden(body, picture.base64)}
            write_json(folder / "request.json", request | {"first_image": picture.about})


def _hidden(value: Any, image: str) -> Any:
    """A request with a placeholder for its image."""
    if isinstance(value, dict):
        return {key: _hidden(inner, image) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hidden(inner, image) for inner in value]
    return value.replace(image, "<the image in base64>") if isinstance(value, str) else value


def _ask(recipe: Recipe, names: Sequence[str]) -> Ask:
    """The wording that a local model gets. Codes are a device of local models: an API answers by the class's name."""
    *system, user = messages(recipe.question, names)
    return Ask(user["content"][0]["text"], system[0]["content"] if system else None, tuple(names))


def _key(provider: Provider) -> str:
    key = os.environ.get(provider.KEY, "")
    if key:
        return key
    if not provider.own:
        return "none"  # most servers of one's own want no key, and those that do say so
    raise UserError(f"{provider.word} needs a key.", f"Set the environment variable {provider.KEY}.")


def _known(provider: Provider, key: str, recipe: Recipe) -> str:
    """Ask a provider's own server about the model before any image is sent: whether the key and the name are right, and
    when it is shut down, if that is known."""
    if not (path := provider.about) or not provider.own:
        return ""

    async def get() -> Response:
        async with sender(provider, key, recipe.api) as there:
            return await there.get(path)

    response = asyncio.run(get())
    if response.status == 200:
        return provider.shutdown(response.text)
    if response.status == 0:
        raise UserError(f"{provider.host} can't be reached: {response.text}.", "Check the network.")
    if response.status in (401, 403):
        hint = f"Check {provider.KEY}."
        raise UserError(f"{provider.host} doesn't accept the key: {response.message}", hint)
    if response.status == 404:
        raise UserError(f"{provider.host} has no model {provider.model!r}: {response.message}", "Check the name.")
    return ""
