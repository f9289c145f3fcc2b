"""Lost power: what a backend did to its files is recorded, and whatever the medium may have kept of it is opened.

`recorder.c` is preloaded into the process that records, `log` reads what it noted, `medium` says what a loss of power
may leave, `jobs` are the processes that record and that open, `runs` are drawn and judged.
"""
