"""System One's typed questions: TypeSafe's service, and servers that speak the same (`lensmith serve`, llama.cpp)."""

from __future__ import annotations

from lensmith.apis import provider
from lensmith.apis.provider import JSON, Ask, Picture, Reply, Usage, shares
from lensmith.apis.providers.openai import image_tokens
from lensmith.config import ApiOptions

IMAGE = "<image-1>"
"""Stands for the image in the state: a placeholder is replaced wherever it occurs, so it is like no class."""


class Provider(provider.Provider):
    KEY, URL, MOST, PROBABILITIES = "TYPESAFE_API_KEY", "https://api.typesafe.ai", 255, True
    OTHER = "openai"

    @property
    def path(self) -> str:
        return "/v1/systemone"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}", "TypeSafe-Danger-Zone-Images": "true"}

    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        question = {"type": "choice", "instructions": ask.text, "criteria": dict.fromkeys(ask.names)}
        form = picture.media.removeprefix("image/")
        asset = {"type": "image", "format": form, "data_base64": picture.base64}
        state = [ask.system, IMAGE] if ask.system else IMAGE
        return {"model": self.model, "state": state, "questions": {"label": question}, "assets": {IMAGE: asset}}

    def reply(self, body: JSON) -> Reply:
        answer, usage, model = body["answers"]["label"], self.usage(body), str(body.get("model", self.model))
        if answer.get("type") == "refusal":
            return Reply(model, usage, refusal="refused")
        return Reply(model, usage, str(answer["choice"]), shares(answer["probabilities"]))

    def usage(self, body: JSON) -> Usage:
        used = body.get("usage") or {}
        return Usage(int(used.get("input_tokens") or 0), 0, int(used.get("output_tokens") or 0))

    def tokens(self, picture: Picture, options: ApiOptions) -> int:
        return image_tokens(picture, options)
