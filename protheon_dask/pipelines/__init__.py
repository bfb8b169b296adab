"""Lines to rows: tables as values, pipelines, and the built-in ones."""
