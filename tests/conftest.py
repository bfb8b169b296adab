"""Register the fixture plugins, one a concern (STYLE, Tests)."""

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.cluster"]
