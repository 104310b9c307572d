"""Anthropic's messages, with a JSON schema as the format of the output."""

from __future__ import annotations

import math

from lensmith.apis import provider
from lensmith.apis.provider import JSON, Ask, Malformed, Picture, Reply, Usage, label_in
from lensmith.config import ApiOptions

TOKENS = 300
"""Maximum length of an answer, which the API wants to be told."""


class Provider(provider.Provider):
    KEY, URL, MOST, OTHER = "ANTHROPIC_API_KEY", "https://api.anthropic.com", 1000, ""

    @property
    def about(self) -> str:
        return f"/v1/models/{self.model}"

    @property
    def path(self) -> str:
        return "/v1/messages"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-api-key": key, "anthropic-version": "2023-06-01"}

    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        source = {"type": "base64", "media_type": picture.media, "data": picture.base64}
        content = [{"type": "text", "text": ask.text}, {"type": "image", "source": source}]
        body: JSON = {"model": self.model, "max_tokens": TOKENS, "messages": [{"role": "user", "content": content}]}
        body["output_config"] = {"format": {"type": "json_schema", "schema": ask.schema}}
        return body | ({"system": ask.system} if ask.system else {})

    def reply(self, body: JSON) -> Reply:
        usage, model = self.usage(body), str(body.get("model", self.model))
        if body.get("stop_reason") == "refusal":
            return Reply(model, usage, refusal="refused")
        text = next((part["text"] for part in body["content"] if part.get("type") == "text"), None)
        if text is None:
            raise Malformed("no text")
        return Reply(model, usage, label_in(text))

    def usage(self, body: JSON) -> Usage:
        # Unlike OpenAI's, the input tokens don't include the cached ones.
        used = body.get("usage") or {}
        cached, new = (int(used.get(key) or 0) for key in ("cache_read_input_tokens", "cache_creation_input_tokens"))
        return Usage(int(used.get("input_tokens") or 0) + cached + new, cached, int(used.get("output_tokens") or 0))

    def tokens(self, picture: Picture, options: ApiOptions) -> int:
        # One token for 750 pixels; larger images are scaled down to about 1.15 megapixels.
        return math.ceil(min(picture.width * picture.height, 1_150_000) / 750)
