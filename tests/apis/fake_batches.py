"""The batch interfaces of OpenAI and Anthropic, for the fake server."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]


@dataclass
class FakeBatches:
    """Files and batches. A batch ends after it was looked at `looks` times."""

    answer: Callable[[bytes], tuple[int, JSON]]
    """A request's body -> status and response."""
    looks: int = 2
    files: list[bytes] = field(default_factory=list)
    batches: list[list[JSON]] = field(default_factory=list)
    looked: int = 0
    cancelled: int = 0
    failed: str = ""

    def handle(self, method: str, path: str, body: bytes, url: str) -> bytes | None:
        """The response to a request; None if it isn't about batches."""
        value: Any = None
        if path.endswith("/cancel"):
            self.cancelled += 1
            value = {"id": "b"} | self._openai("cancelling")
        elif (method, path) == ("POST", "/v1/files"):
            self.files.append(next(part for part in body.split(b"\r\n\r\n")[1:] if part.startswith(b'{"custom_id')))
            about = {"object": "file", "bytes": 1, "created_at": 0, "filename": "f", "purpose": "batch"}
            value = {"id": f"file-{len(self.files) - 1}", "status": "processed"} | about
        elif (method, path) == ("POST", "/v1/batches"):
            lines = self.files[int(json.loads(body)["input_file_id"][5:])].split(b"\r\n--")[0].splitlines()
            self.batches.append([json.loads(line) for line in lines])
            value = {"id": f"batch-{len(self.batches) - 1}"} | self._openai("validating")
        elif (method, path) == ("POST", "/v1/messages/batches"):
            rows = json.loads(body)["requests"]
            self.batches.append([{"custom_id": row["custom_id"], "body": row["params"]} for row in rows])
            value = {"id": f"batch-{len(self.batches) - 1}"}
        elif path.startswith(("/v1/batches/batch-", "/v1/messages/batches/batch-")):
            self.looked += 1
            number, ended = path.rpartition("-")[2], self.looked > self.looks
            if "messages" in path:
                rows = self.batches[int(number)]
                counts = dict.fromkeys(("canceled", "errored", "expired", "succeeded"), 0)
                counts |= {"processing": 0 if ended else len(rows)}
                about = {"processing_status": "ended" if ended else "in_progress", "request_counts": counts}
                value = {"id": f"batch-{number}", "results_url": f"{url}/results/batch-{number}"} | about
            else:
                state = "failed" if self.failed else "completed" if ended else "in_progress"
                value = {"id": f"batch-{number}", "output_file_id": f"out-{number}"} | self._openai(state)
                if self.failed:
                    value["errors"] = {"object": "list", "data": [{"message": self.failed}]}
        elif path.startswith("/results/"):
            return b"\n".join(self._results(path, anthropic=True))
        elif path.startswith("/v1/files/out-"):
            return b"\n".join(self._results(path.removesuffix("/content"), anthropic=False))
        return None if value is None else json.dumps(value).encode()

    def _results(self, path: str, anthropic: bool) -> list[bytes]:
        lines = []
        for row in reversed(self.batches[int(path.rpartition("-")[2])]):  # in any order
            status, body = self.answer(json.dumps(row["body"]).encode())
            if anthropic:
                error: JSON = {
                    "type": "errored",
                    "error": {"type": "error", "error": {"type": "invalid_request_error"}},
                }
                result: JSON = {"result": {"type": "succeeded", "message": body} if status == 200 else error}
            else:
                result = {"id": "r", "response": {"status_code": status, "body": body}, "error": None}
            lines.append(json.dumps({"custom_id": row["custom_id"]} | result).encode())
        return lines

    def _openai(self, status: str) -> JSON:
        about = {"object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h", "created_at": 0}
        counts = {"completed": 0, "failed": 0, "total": len(self.batches[-1]) if self.batches else 0}
        return about | {"input_file_id": "file-0", "status": status, "request_counts": counts}
