"""Is a report true? What it measured is made again and compared."""
