"""Servers to race Lensmith's against: `transformers serve` with its decision route, and LitServe around `Classifier`.

Run: python serving.py (transformers | litserve) PORT JOB
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


def transformers_serve(port: int, job: dict[str, Any]) -> None:
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


def litserve(port: int, job: dict[str, Any]) -> None:
    """LitServe: one worker, batches of up to 64 of what waits."""
    import base64

    import litserve as ls

    sys.path.insert(0, str(Path(__file__).parents[2] / "src"))

    class Api(ls.LitAPI):  # type: ignore[misc]
        def setup(self, device: str) -> None:
            from lensmith import models
            from lensmith.config import ModelOptions, QuestionOptions
            from lensmith.engine.classifier import Classifier
            from lensmith.engine.question import make_question

            model = models.load_base(ModelOptions(base=job["model"], dtype="float32", device="cpu"))
            self.classifier = Classifier(model, make_question(model, QuestionOptions(answers="codes"), job["labels"]))

        def decode_request(self, request: dict[str, str]) -> bytes:
            return base64.b64decode(request["image"])

        def batch(self, inputs: list[bytes]) -> list[bytes]:
            return inputs

        def unbatch(self, output: list[Any]) -> list[Any]:
            return output

        def predict(self, images: list[bytes]) -> list[dict[str, float]]:
            from lensmith.data import decode_image
            from lensmith.models.base import grouped
            from lensmith.models.views import shape_of, stack

            model = self.classifier.model
            views = [model.prepare(decode_image(data, name="x", enough=model.sufficient_size)) for data in images]
            answers: dict[int, dict[str, float]] = {}
            for group in grouped(map(shape_of, views)):
                rows = [
                    row
                    for scores in self.classifier.score_all(stack([views[k] for k in group]))
                    for row in scores.bound.softmax(1).tolist()
                ]
                for k, row in zip(group, rows, strict=True):
                    answers[k] = dict(zip(job["labels"], row, strict=True))
            return [answers[k] for k in range(len(images))]

    server = ls.LitServer(Api(max_batch_size=64, batch_timeout=0.0), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


if __name__ == "__main__":
    side, port, job = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(job["threads"])
    {"transformers": transformers_serve, "litserve": litserve}[side](port, job)
