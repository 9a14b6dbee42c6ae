"""Generation: engines that turn prompts into completions, rollouts that carry their evidence."""
