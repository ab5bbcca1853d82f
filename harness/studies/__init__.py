"""What is made of scores: comparison, explanation, generation, verification, training."""
