"""Models. Each module is a plugin; ``base``, ``tiled``, ``gpt`` and ``gpt2_bpe`` are what torch adapters share."""
