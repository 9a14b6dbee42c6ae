"""Generation by vLLM servers: start, supervise, talk to them, send them weights."""
