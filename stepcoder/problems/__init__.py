"""Problems: their files and JSON schema, their source text, prompts, and the code in answers."""
