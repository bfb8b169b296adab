"""Tests, mirroring the source tree: unit, contract, integration, acceptance, arch."""
