"""Tasks: sentence pairs, whole books, any text. Each module is a plugin."""
