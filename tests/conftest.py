"""Register the fixture plugins, one a concern (STYLE, Tests)."""

from hypothesis import settings

pytest_plugins = ["tests.fixtures.postgres", "tests.fixtures.cluster", "tests.fixtures.web", "tests.fixtures.browser"]

# a slow machine is no defect; the time-out of a test bounds it. The same examples each time: what is new is looked for by `make test-all`
settings.register_profile("protheon", deadline=None, derandomize=True)
settings.register_profile("thorough", settings.get_profile("protheon"), derandomize=False)  # tests/properties/effort.py: `make test-all`
settings.load_profile("protheon")
