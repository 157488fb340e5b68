"""The process that `ChildPool` starts: runs the jobs that it is given; ends when its standard input does."""

from __future__ import annotations

from edgesearch.search.engine._jobs import run_job
from edgesearch.search.engine._lines import serve

if __name__ == "__main__":
    serve(run_job)
