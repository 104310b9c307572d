"""Write src/lensmith/apis/prices.json from LiteLLM's list of prices and shutdown dates.

Run in an environment that has LiteLLM: python dev/make_prices.py
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from datetime import date
from pathlib import Path

MODELS = {
    "openai": "gpt-6-luna gpt-6-sol gpt-5.6-luna gpt-5 gpt-5-mini gpt-5-nano gpt-4.1 gpt-4.1-mini gpt-4.1-nano "
    "gpt-4o gpt-4o-mini",
    "openai-decisions": "gpt-6-luna",
    "anthropic": "claude-haiku-5-5 claude-haiku-4-5 claude-sonnet-4-5",
    "gemini": "gemini/gemini-3.5-flash-lite gemini/gemini-2.5-flash gemini/gemini-2.5-flash-lite",
}
PER = 1_000_000


def main() -> None:
    """Write the file."""
    package = importlib.util.find_spec("litellm")
    if not package or not package.origin:
        raise SystemExit("LiteLLM isn't installed.")
    listed = json.loads((Path(package.origin).parent / "model_prices_and_context_window_backup.json").read_text())
    models = {}
    for provider, names in MODELS.items():
        kind = "_decisions" if provider == "openai-decisions" else ""
        for name in names.split():
            if not (found := listed.get(name)):
                print(f"not listed: {name}")
                continue
            price = {
                "input": found[f"input_cost_per_token{kind}"],
                "output": found[f"output_cost_per_token{kind}"],
                "cached": found.get(f"cache_read_input_token_cost{kind}"),
            }
            row = {key: round(value * PER, 6) for key, value in price.items() if value is not None}
            if shutdown := found.get("deprecation_date"):
                row["shutdown"] = shutdown
            models[f"{provider}:{name.rpartition('/')[2]}"] = row
    source = f"LiteLLM {importlib.metadata.version('litellm')}, model_prices_and_context_window_backup.json"
    value = {"date": str(date.today()), "source": source, "unit": "US dollars per million tokens", "models": models}
    target = Path(__file__).parents[1] / "src" / "lensmith" / "apis" / "prices.json"
    target.write_text(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
