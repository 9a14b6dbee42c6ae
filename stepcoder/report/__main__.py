"""python -m stepcoder.report RUN_DIR: write the page of a run folder again."""

import sys

from stepcoder.report.page import main

sys.exit(main())
