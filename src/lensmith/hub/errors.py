"""Errors of the Hugging Face hub, each as one sentence with what to do about it.

An unaccepted licence, an unknown name and a machine without network need three different answers. The client's errors
for them are long, nested and come from several libraries.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from lensmith.errors import UserError


def explain(error: BaseException, name: str, kind: str = "model") -> UserError:
    """The `UserError` for what the hub's client raised in response to a request for `name`.

    Args:
        kind: `model` or `dataset`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    chain = list(_chain(error))
    what = f"{kind} {name}"
    page = f"{constants.ENDPOINT}/{'' if kind == 'model' else 'datasets/'}{name}"
    # `datasets` doesn't chain its errors to the hub's, so only their class names and messages remain.
    if any(isinstance(e, GatedRepoError) or "gated dataset" in str(e) for e in chain):
        return UserError(
            f"The {what} is only available to accounts that have accepted its licence.",
            f"Accept it at {page} and set HF_TOKEN to a token of that account.",
        )
    if any(isinstance(e, RepositoryNotFoundError) or type(e).__name__ == "DatasetNotFoundError" for e in chain):
        return UserError(
            f"The hub has no {what}, or it is private.",
            f"Check the name. If the {kind} is private, set HF_TOKEN to a token of an account that may read it.",
        )
    if any(isinstance(e, HFValidationError) for e in chain):
        return UserError(f"{name!r} can't be the name of a {kind} on the hub.", "Names have the form owner/name.")
    response_error = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if response_error is not None:
        status = response_error.response.status_code
        if status == 401:
            return UserError(
                f"The hub doesn't accept the token that was sent for the {what}.",
                "Set HF_TOKEN to a valid token, or unset it.",
            )
        return UserError(f"The hub answered the request for the {what} with HTTP {status}.", "Try again later.")
    if any(isinstance(e, ConnectionError) or is_network(e) for e in chain):
        folder = f"FOLDER/{PurePosixPath(name).name}"
        if kind == "model":
            return unreachable("the hub", f"the {what}", name, f"model.base={folder}", error)
        return unreachable("the hub", f"the {what}", f"hub:{name}", f"data.uri=hub:{folder}", error)
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return UserError(
        f"The {what} can't be loaded from the hub: {reason}", "Check the name, or give the folder of a local copy."
    )


def unreachable(host: str, what: str, word: str, option: str, error: BaseException) -> UserError:
    """The `UserError` for a machine without network.

    Args:
        host: what can't be reached.
        what: what was requested.
        word: the argument of `lensmith fetch` that downloads it on another machine.
        option: the recipe option that uses the copied folder.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    off = any(isinstance(e, OfflineModeIsEnabled) for e in _chain(error))
    why = "HF_HUB_OFFLINE is set" if off else f"{host} can't be reached (no network?)"
    return UserError(
        f"{what[0].upper()}{what[1:]} isn't on this machine, and {why}.",
        f"Run `lensmith fetch {word} --to FOLDER` on a machine with network access, copy the folder, and use {option}.",
    )


def is_network(error: BaseException) -> bool:
    """Whether an error comes from the HTTP client, and isn't a response of the server."""
    from huggingface_hub.errors import HfHubHTTPError

    # The HTTP client is httpx or httpx2, depending on the hub's version. Its base class is the base of the hub's error.
    return isinstance(error, HfHubHTTPError.__bases__[0]) and not isinstance(error, HfHubHTTPError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # Only explicit causes: errors that merely happened earlier, such as a missing model card, explain nothing.
    while error is not None:
        yield error
        error = error.__cause__
