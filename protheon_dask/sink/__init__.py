"""Rows to PostgreSQL: targets, COPY, bisection, merge."""
