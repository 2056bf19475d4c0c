"""Figures, tables and a widget from arrays and numbers. Nothing here reads or writes a file."""
