"""Studies: recipes against each other over several seeds, from equal starts with equal budgets."""
