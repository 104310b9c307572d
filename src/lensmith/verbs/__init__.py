"""The verbs, one module each, in one folder per purpose: see, teach, compare, use.

The module of `lensmith VERB` is called VERB, and is imported when it is needed, so that `lensmith --help` is quick. It
defines `EXAMPLES` (commands for its help), `arguments(parser)` and `run(args, screen) -> Output`. The function with the
module's name is the verb in Python (`lensmith.train`). A verb that can be resumed also defines `RECORD`, the file that
only a finished run has, and `text(record)`; its function accepts `resume`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

GROUPS = {
    "see": {
        "demo": "run the whole workflow in a few minutes: baselines, training, blend, comparison, report",
        "evaluate": "score a model, zero-shot or tuned, on labelled images",
        "report": "make the page of a finished run anew",
        "check": "find what is wrong with the images: leaks, contradictions, odd ones, shortcuts",
        "suspects": "find images whose labels are likely wrong",
        "next": "choose the images to label next",
        "stress": "see where a taught model breaks: its accuracy on mildly changed images",
        "recipe": "list every option of a recipe, with its default and meaning",
    },
    "teach": {
        "train": "teach the model your classes, and score it on held-out test images",
        "probe": "fit simple classifiers on the frozen model's features, in seconds",
        "blend": "make one classifier of several finished runs: the weighted mean of their answers",
        "resume": "resume a run that was stopped or killed, whichever verb started it",
        "attach": "follow a job on a remote machine, or pick up the answers of a batch",
    },
    "compare": {
        "compare": "compare runs on the same images: better, worse, or can't tell",
        "ladder": "compare methods, from zero-shot to LoRA, and choose the one worth its cost",
        "curve": "estimate how much more labels would improve accuracy",
        "sweep": "search for the best settings; several workers can share a search",
    },
    "use": {
        "predict": "classify images with a tuned model, or zero-shot",
        "label": "label images with a model, to teach another: a taught one, an outside one, or both",
        "serve": "answer over HTTP as OpenAI's, TypeSafe's and Hugging Face's services do",
        "export": "write a taught model for another program, and prove that it answers there as here",
        "push": "put a taught model, or an export of it, onto the Hugging Face hub; private unless told otherwise",
        "manifest": "print a Kubernetes manifest for a command that runs on a cluster of its own",
        "fetch": "download weights and data to a folder, for machines without network access",
    },
}
"""The verbs of each folder with their one-line descriptions, in the order of `lensmith --help`."""
VERBS = {verb: group for group, verbs in GROUPS.items() for verb in verbs}
"""The folder of each verb."""


def module(verb: str) -> Any:
    """The module of a verb."""
    return import_module(f"{__name__}.{VERBS[verb]}.{verb}")
