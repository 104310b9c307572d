"""`lensmith manifest`: print a Kubernetes manifest for a command that runs on a cluster of its own."""

from __future__ import annotations

import argparse
import re
from typing import Any

from lensmith.config import load_recipe
from lensmith.errors import UserError
from lensmith.verbs import terminal
from lensmith.verbs.words import is_option

EXAMPLES = (
    "lensmith manifest predict /data/runs/mine s3://bucket/photos --out s3://bucket/answers ray.workers=8 ray.gpus=1 "
    "ray.storage=s3://bucket/jobs",
)
RUN_THERE = ("train", "evaluate", "probe", "ladder", "sweep", "label", "predict")
IMAGE = "lensmith-ray:latest"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's command-line arguments."""
    parser.add_argument("--on", default="ray", metavar="PLACE", help="kind of cluster: ray, a RayJob of KubeRay")
    parser.add_argument("--name", default="lensmith", help="name of the job (default: lensmith)")
    parser.add_argument("--image", default=IMAGE, help=f"image of every pod (default: {IMAGE}; see deploy/)")
    parser.add_argument("--memory", default="8Gi", help="memory of each worker, as Kubernetes writes it (default: 8Gi)")
    parser.add_argument("--claim", help="a persistent volume claim that every pod finds at /data")
    parser.add_argument("--secret", help="a secret whose keys become environment variables, such as credentials")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="VERB ...", help="a command, as it is typed after `lensmith`"
    )


def run(args: argparse.Namespace, screen: terminal.Screen) -> terminal.Output:
    """Run the command."""
    values = manifest(
        args.command,
        on=args.on,
        name=args.name,
        image=args.image,
        memory=args.memory,
        claim=args.claim,
        secret=args.secret,
    )
    return terminal.Output(values, [terminal.Verbatim(_yaml(values))])


def manifest(
    command: list[str],
    on: str = "ray",
    name: str = "lensmith",
    image: str = IMAGE,
    memory: str = "8Gi",
    claim: str | None = None,
    secret: str | None = None,
) -> dict[str, Any]:
    """A manifest for a command.

    Args:
        command: the words of a command after `lensmith`; its options say how many workers it has and what each needs.
        on: the kind of cluster; only "ray" has manifests.
        name: of the job.
        image, memory, claim, secret: see `places.ray.manifest.ray_job`.

    Returns:
        A RayJob as plain values.

    Raises:
        UserError: the command can't run on a cluster, or lacks what it needs there.
    """
    from lensmith.places.ray.manifest import ray_job

    if on != "ray":
        raise UserError(f"There are no manifests for {on}.", "Use --on ray.")
    verb = command[0] if command else ""
    if verb not in RUN_THERE:
        raise UserError(
            f"{verb!r} isn't a command that runs on a cluster." if verb else "Which command?",
            f"One of: {', '.join(RUN_THERE)}.",
        )
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
        raise UserError(f"{name!r} isn't a name for Kubernetes.", "Use at most 47 small letters, digits and hyphens.")
    if given := [word for word in command if word in ("--on", "--detach") or word.startswith("ray.address=")]:
        raise UserError(f"{given[0]} is for a cluster that is there already.", "Leave it out.")
    options = load_recipe(None, [word for word in command if is_option(word) and word.startswith("ray.")]).ray
    if not options.storage:
        raise UserError(
            "The job needs a storage that all its pods share.",
            "Add ray.storage=s3://BUCKET/FOLDER, or --claim NAME and ray.storage=/data/jobs.",
        )
    return ray_job(name, command, options, image, memory, claim, secret)


def _yaml(values: dict[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip()
