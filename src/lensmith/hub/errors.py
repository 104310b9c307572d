"""What goes wrong with the Hugging Face hub, each as one sentence that says what to do.

A licence not yet accepted, a name that isn't there and a machine without network need three different answers, and the
client's own errors for them are long, nested and of several libraries.
"""

from __future__ import annotations

from collections.abc import Iterator

from lensmith.errors import UserError


def explain(error: BaseException, name: str, kind: str = "model") -> UserError:
    """The sentence for what the hub's client raised when it was asked for `name`.

    Args:
        kind: `model` or `dataset`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    chain = list(_chain(error))
    what = f"{kind} {name}"
    page = f"{constants.ENDPOINT}/{'' if kind == 'model' else 'datasets/'}{name}"
    # `datasets` cuts its errors off from the hub's own, so only their names and words are left.
    if any(isinstance(e, GatedRepoError) or "gated dataset" in str(e) for e in chain):
        return UserError(
            f"The {what} is given only to those who have accepted its licence.",
            f"Accept it at {page} and set HF_TOKEN to a token of that account.",
        )
    if any(isinstance(e, RepositoryNotFoundError) or type(e).__name__ == "DatasetNotFoundError" for e in chain):
        return UserError(
            f"The hub has no {what}, or it is private.",
            "Check the name; for a private one, set HF_TOKEN to a token of an account that may read it.",
        )
    if any(isinstance(e, HFValidationError) for e in chain):
        return UserError(f"{name!r} can't be the name of a {kind} on the hub.", "Names are written owner/name.")
    answered = next((e for e in chain if isinstance(e, HfHubHTTPError)), None)
    if answered is not None:
        status = answered.response.status_code
        if status == 401:
            return UserError(
                f"The hub doesn't accept the token it was given for the {what}.",
                "Set HF_TOKEN to a valid one, or unset it.",
            )
        return UserError(f"The hub answers with HTTP {status} to the request for the {what}.", "Try again later.")
    if any(isinstance(e, ConnectionError) or is_network(e) for e in chain):
        last = name.rpartition("/")[2]
        if kind == "model":
            return unreachable("the hub", f"the {what}", name, f"model.base=FOLDER/{last}", error)
        return unreachable("the hub", f"the {what}", f"hub:{name}", f"data.uri=hub:FOLDER/{last}", error)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"The {what} can't be had from the hub: {reason}", "Check the name, or give a local copy's folder."
    )


def unreachable(host: str, what: str, word: str, option: str, error: BaseException) -> UserError:
    """The sentence for a machine without network: `word` is what to fetch elsewhere, `option` how to use it then."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    off = any(isinstance(e, OfflineModeIsEnabled) for e in _chain(error))
    why = "HF_HUB_OFFLINE is set" if off else f"{host} can't be reached (no network?)"
    return UserError(
        f"{what[0].upper()}{what[1:]} isn't on this machine, and {why}.",
        f"Run `lensmith fetch {word} --to FOLDER` on a machine with network, copy the folder, and use {option}.",
    )


def is_network(error: BaseException) -> bool:
    """Whether an error is of the HTTP client, and not an answer of the server."""
    from huggingface_hub.errors import HfHubHTTPError

    # The client is httpx or httpx2, by the hub's version; its base class is the base of the hub's own error.
    return isinstance(error, HfHubHTTPError.__bases__[0]) and not isinstance(error, HfHubHTTPError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    # Causes only: what merely went before, such as a model card that isn't there, explains nothing.
    while error is not None:
        yield error
        error = error.__cause__
