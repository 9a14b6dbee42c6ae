"""What comes with the sandbox: a first verdict must wait for no large library."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from stepcoder.sandbox import CallTests, Judge, Program
with Judge(workers=1) as judge:
    assert judge.run(Program("def f(): return 1", "f"), CallTests(([],), (1,))).passed
print(json.dumps(sorted(sys.modules)))
"""


def test_a_first_verdict_imports_the_standard_library_and_the_sandbox_alone() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True, timeout=60
    )
    loaded = json.loads(done.stdout)
    # What the packages of this environment bring along at any start (by .pth files) is theirs.
    start = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    bare = subprocess.run([sys.executable, "-c", start], capture_output=True, check=True)
    ours = {name.partition(".")[0] for name in set(loaded) - set(json.loads(bare.stdout))}
    assert ours - sys.stdlib_module_names == {"stepcoder"}
    assert {n for n in loaded if n.startswith("stepcoder.")} <= {
        n for n in loaded if n.startswith("stepcoder.sandbox")
    }
