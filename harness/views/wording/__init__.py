"""Results in sentences, for terminal and page alike."""
