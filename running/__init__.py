"""The long parts of runs.py and of common.py's command line. Scripts get all of it through these two."""
