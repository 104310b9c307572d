"""OpenAI's decisions: one question of type choice, whose answer has the probabilities of all classes."""

from __future__ import annotations

from lensmith.apis.provider import JSON, Ask, Picture, Reply, shares
from lensmith.apis.providers import openai
from lensmith.config import ApiOptions


class Provider(openai.Provider):
    MOST, PROBABILITIES, OTHER = 255, True, "openai"

    @property
    def path(self) -> str:
        return "/decisions"

    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        content = [{"type": "input_image", "image_url": picture.url, "detail": options.detail}]
        choices = [{"value": name} for name in ask.names]
        question = {"type": "choice", "name": "label", "instructions": ask.text, "choices": choices}
        messages: list[JSON] = [{"role": "user", "content": content}]
        if ask.system:
            messages.insert(0, {"role": "system", "content": ask.system})
        return {"model": self.model, "input": messages, "questions": [question]}

    def reply(self, body: JSON) -> Reply:
        answer, model, usage = body["answers"][0], str(body.get("model", self.model)), self.usage(body)
        if answer["type"] == "refusal":
            return Reply(model, usage, refusal="refused")
        rows = answer["probabilities"]
        # Probabilities are rounded, so the choice decides between ties, and not the order.
        return Reply(model, usage, str(answer["choice"]), shares({row["value"]: row["probability"] for row in rows}))
