"""What is asked: problems and their tests, their source text, and the prompts made of them."""
