"""PostgreSQL as the truth: connections, migrations, the verbs of tasks, reports, the embedded server."""
