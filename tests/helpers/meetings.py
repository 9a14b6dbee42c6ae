"""A program for torchrun: objects that all processes have are not sent; then the second fails."""

import torch

from stepcoder.errors import RunError
from stepcoder.models import ranks

known = [lambda: 0, lambda: 1]  # pickle cannot send them

with ranks.joined(torch.device("cpu")):
    found = ranks.from_first(lambda: [known[1], known[1], "sent"], known)
    assert found == [known[1], known[1], "sent"]
    if ranks.is_first():
        ranks.summed(torch.ones(1))  # waits for the second
    raise RunError("only the second fails")
