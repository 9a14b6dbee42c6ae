"""What people read of a run: its folder, progress on the terminal, charts, samples, the page."""
