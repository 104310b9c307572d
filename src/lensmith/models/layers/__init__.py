"""What takes the place of a linear layer: one that learns LoRA, one that multiplies in eight bits."""
