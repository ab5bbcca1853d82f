"""Two evaluations of one text: which is better, by how much, and why."""
