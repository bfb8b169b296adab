"""The rim that introduces the rooms to each other: coordinator, worker, supervision, wiring."""
