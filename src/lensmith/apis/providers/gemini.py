"""Gemini's `generateContent`, with a JSON schema for the response."""

from __future__ import annotations

import math

from lensmith.apis import provider
from lensmith.apis.provider import JSON, Ask, Malformed, Picture, Reply, Usage, label_in
from lensmith.config import ApiOptions

REFUSED = {"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION", "IMAGE_SAFETY"}
"""Reasons to finish that mean no."""


class Provider(provider.Provider):
    KEY, URL, MOST, OTHER = "GEMINI_API_KEY", "https://generativelanguage.googleapis.com", 1000, ""

    @property
    def about(self) -> str:
        return f"/v1beta/models/{self.model}"

    @property
    def path(self) -> str:
        return f"/v1beta/models/{self.model}:generateContent"

    def headers(self, key: str) -> dict[str, str]:
        return {"x-goog-api-key": key}

    def body(self, ask: Ask, picture: Picture, options: ApiOptions) -> JSON:
        image = {"inlineData": {"mimeType": picture.media, "data": picture.base64}}
        config = {"responseMimeType": "application/json", "responseJsonSchema": ask.schema}
        contents = [{"role": "user", "parts": [{"text": ask.text}, image]}]
        body: JSON = {"contents": contents, "generationConfig": config}
        return body | ({"systemInstruction": {"parts": [{"text": ask.system}]}} if ask.system else {})

    def reply(self, body: JSON) -> Reply:
        usage, model = self.usage(body), str(body.get("modelVersion") or self.model)
        if blocked := (body.get("promptFeedback") or {}).get("blockReason"):
            return Reply(model, usage, refusal=str(blocked))
        candidate = body["candidates"][0]
        if candidate.get("finishReason") in REFUSED:
            return Reply(model, usage, refusal=str(candidate["finishReason"]))
        parts = [part["text"] for part in candidate["content"]["parts"] if "text" in part and not part.get("thought")]
        if not parts:
            raise Malformed("no text")
        return Reply(model, usage, label_in("".join(parts)))

    def usage(self, body: JSON) -> Usage:
        used = body.get("usageMetadata") or {}
        written = sum(int(used.get(key) or 0) for key in ("candidatesTokenCount", "thoughtsTokenCount"))
        return Usage(int(used.get("promptTokenCount") or 0), int(used.get("cachedContentTokenCount") or 0), written)

    def tokens(self, picture: Picture, options: ApiOptions) -> int:
        # 258 for each tile of 768 pixels; an image of at most 384 is one.
        if max(picture.width, picture.height) <= 384:
            return 258
        return 258 * math.ceil(picture.width / 768) * math.ceil(picture.height / 768)
