"""What a server says when it starts."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence


def banner(names: Sequence[str], host: str, port: int, token: bool) -> list[str]:
    """How each protocol is used, line by line."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key, header = ("TOKEN", " -H 'Authorization: Bearer TOKEN'") if token else ("none", "")
    lines = [
        f"Serving {', '.join(names)} at {url}; Ctrl-C stops it.",
        f"  Browser:       {url}",
        f'  OpenAI:        client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        f'  TypeSafe:      client = TypeSafeClient(base_url="{url}", api_key="{key}")',
        f'  Hugging Face:  InferenceClient(model="{url}").image_classification("image.jpg")',
        f"  curl:          curl --data-binary @image.jpg{header} {url}",
    ]
    if not token and not (host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)):
        lines.append(
            "Whoever reaches this machine may ask it and keep corrections here. Set LENSMITH_TOKEN to require a token."
        )
    return lines


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
