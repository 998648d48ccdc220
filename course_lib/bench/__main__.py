"""`python -m course_lib.bench NAME ...`: the benches with nothing but torch and numpy installed."""

import sys

from course_lib.bench import run

sys.exit(run())
