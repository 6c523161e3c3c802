"""The program batchwright. This package only starts it: `python -m batchwright`."""
