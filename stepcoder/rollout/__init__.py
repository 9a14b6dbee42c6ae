"""Generation: engines that turn prompts into completions, and rollouts that carry their evidence."""
