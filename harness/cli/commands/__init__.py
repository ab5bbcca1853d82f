"""One command, one file: each has a ``command`` and is imported when it is called."""
