"""The gRPC faces of the master: chunk streams and runs."""
