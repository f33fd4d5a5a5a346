"""The long parts of report.py: its charts, and the page they stand in."""
