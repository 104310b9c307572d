"""A server to race Lensmith's against: LitServe around Lensmith's `Classifier`, batches of up to 64 of what waits.

Run: python serving_litserve.py PORT JOB
JOB is JSON: {"model": folder, "labels": [...], "threads": n}.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import common  # noqa: F401
import litserve as ls

sys.path.insert(0, str(Path(__file__).parents[2] / "src"))
if __name__ == "__main__":  # the worker is another process, which imports this file anew
    os.environ["LENSMITH_JOB"] = sys.argv[2]
JOB: dict[str, Any] = json.loads(os.environ["LENSMITH_JOB"])


class Api(ls.LitAPI):  # type: ignore[misc]
    """Base64 in, probabilities out."""

    def setup(self, device: str) -> None:
        """Load the classifier."""
        import torch

        from lensmith import models
        from lensmith.config import ModelOptions, QuestionOptions
        from lensmith.engine.classifier import Classifier
        from lensmith.engine.question import make_question

        torch.set_num_threads(JOB["threads"])
        model = models.load_base(ModelOptions(base=JOB["model"], dtype="float32", device="cpu"))
        self.classifier = Classifier(model, make_question(model, QuestionOptions(answers="codes"), JOB["labels"]))

    def decode_request(self, request: dict[str, str]) -> bytes:
        """The encoded image."""
        return base64.b64decode(request["image"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """As they are: images of several shapes can't be stacked."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """As they are."""
        return output

    def predict(self, images: list[bytes]) -> list[dict[str, float]]:
        """The probabilities for a batch."""
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
                answers[k] = dict(zip(JOB["labels"], row, strict=True))
        return [answers[k] for k in range(len(images))]


if __name__ == "__main__":
    server = ls.LitServer(Api(max_batch_size=64, batch_timeout=0.0), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False)
