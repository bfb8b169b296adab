"""From a sample of JSON lines to the source of a pipeline: observe, plan, render, check."""
