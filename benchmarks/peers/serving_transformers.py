"""A server to race Lensmith's against: `transformers serve` with its decision route.

Run: python serving_transformers.py PORT JOB
JOB is JSON: {"model": folder, "labels": [...], "threads": n}.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import common  # noqa: F401
import torch


def serve(port: int, job: dict[str, Any]) -> None:
    """`transformers serve` of the model, with the question that Lensmith asks."""
    from scoring import DECISION_TEMPLATE
    from transformers.cli.serve import Serve
    from transformers.decision import DecisionConfig

    codes = [chr(ord("A") + i) for i in range(len(job["labels"]))]
    lines = "\n".join(f"{code}. {label}" for code, label in zip(codes, job["labels"], strict=True))
    text = f"What is in this picture? Answer with one of these:\n{lines}\n"
    template = DECISION_TEMPLATE.replace(
        "{%- for part in state -%}", "{{- " + json.dumps(text) + " -}}{%- for part in state -%}"
    )
    with tempfile.TemporaryDirectory() as folder:
        DecisionConfig(labels={"choice": codes}, chat_template=template).save_pretrained(folder)
        copy = Path(folder)
        for path in Path(job["model"]).iterdir():
            (copy / path.name).symlink_to(path.resolve())
        Serve(force_model=folder, device="cpu", dtype="float32", host="127.0.0.1", port=port)


if __name__ == "__main__":
    torch.set_num_threads((job := json.loads(sys.argv[2]))["threads"])
    serve(int(sys.argv[1]), job)
