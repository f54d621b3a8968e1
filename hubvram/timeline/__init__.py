"""Timeline: one training step on tensors without data, and the figures read off it."""
