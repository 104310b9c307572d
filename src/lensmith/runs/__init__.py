"""Run folders: their contents (`folder`), files written atomically (`files`), predictions, and provenance."""
