"""The training loop, its data and its log."""
