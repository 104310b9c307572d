"""OpenAI's chat completions, with a strict JSON schema: of OpenAI, and of any server that speaks it (vLLM, Ollama, LM
Studio, llama.cpp, `lensmith serve`)."""

from __future__ import annotations

import json
import math

from lensmith.apis import provider
from lensmith.apis.provider import JSON, Ask, Malformed, Picture, Reply, Usage, label_in, shares
from lensmith.config import ApiOptions


class Provider(provider.Provider):
    KEY, URL, MOST, OTHER = "OPENAI_API_KEY", "https://api.openai.com/v1", 1000, "gemini"

    @property
    def about(self) -> str:
        return f"/models/{self.model}"

    def shutdown(self, text: str) -> str:
        try:
            return str(json.loads(text).get("shutdown_date") or "")
        except (ValueError, AttributeError):
            return ""

    @property
    def path(self) -> str:
        return "/chat/completions"

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        image = {"type": "image_url", "image_url": {"url": picture.url, "detail": options.detail}}
        messages: list[JSON] = [{"role": "user", "content": [{"type": "text", "text": ask.text}, image]}]
        if ask.system:
            messages.insert(0, {"role": "system", "content": ask.system})
        schema = {"name": "answer", "strict": True, "schema": ask.schema}
        form = {"type": "json_schema", "json_schema": schema}
        return {"model": self.model, "messages": messages, "response_format": form}

    def reply(self, body: JSON) -> Reply:
        choice = body["choices"][0]
        message, model, usage = choice["message"], str(body.get("model", self.model)), self.usage(body)
        content = message.get("content")
        filtered = "content filter" if choice.get("finish_reason") == "content_filter" else ""
        if refusal := message.get("refusal") or filtered:
            return Reply(model, usage, refusal=str(refusal))
        if not isinstance(content, str):
            raise Malformed("no content")
        # Only servers such as `lensmith serve` give the probabilities of all classes.
        given = body.get("probabilities")
        return Reply(model, usage, label_in(content), shares(given) if isinstance(given, dict) else {})

    def usage(self, body: JSON) -> Usage:
        # The tokens of the prompt include the cached ones (litellm#15945).
        usage = body.get("usage") or {}
        details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
        read = usage.get("prompt_tokens", usage.get("input_tokens", 0))
        written = usage.get("completion_tokens", usage.get("output_tokens", 0))
        return Usage(int(read or 0), int(details.get("cached_tokens") or 0), int(written or 0))

    def tokens(self, picture: Picture, options: ApiOptions) -> int:
        return image_tokens(picture, options)


def image_tokens(picture: Picture, options: ApiOptions) -> int:
    """About the tokens of an image: patches of 32 pixels, at most 1,536; 85 with low detail."""
    if options.detail == "low":
        return 85
    return min(1536, math.ceil(picture.width / 32) * math.ceil(picture.height / 32))
