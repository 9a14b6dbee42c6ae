"""Problems: their files and JSON schema, their source text, prompts, and the code in answers."""

from stepcoder.problems.problem import LoadReport, Problem, load_problems

__all__ = ["LoadReport", "Problem", "load_problems"]
